"""How pixels become predictions: backbone, features, heads, losses, methods."""
