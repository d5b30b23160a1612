"""How good predictions and synthetic images are."""
