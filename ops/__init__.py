"""Machines that come and go."""
