"""A run's connection to Ray."""
