"""Samples as bytes: codecs and tars."""
