"""Whole predictors: one method, one file."""
