"""Rendered indoor rooms with exact depth, normals, classes and captions, from a seed."""
