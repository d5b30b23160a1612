"""Decide which unit is next."""
