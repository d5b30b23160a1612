"""Ablations over seeds."""
