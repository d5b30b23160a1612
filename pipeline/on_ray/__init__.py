"""Generation on Ray."""
