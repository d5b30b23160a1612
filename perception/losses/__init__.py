"""Training losses, one task a file."""
