"""A run directory: opened, watched, driven, reported."""
