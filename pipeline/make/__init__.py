"""Make one unit, in the order of its data."""
