"""The renderer of rooms and the training of the starter models."""
