"""Stores: a folder or any fsspec URL."""
