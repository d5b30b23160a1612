"""Manifests of units: Parquet files, listed, read, compacted."""
