"""Where real samples come from, and the live mixture of real and synthetic ones."""
