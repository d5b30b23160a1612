"""Entry points, one command a file."""
