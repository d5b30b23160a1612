"""Read the file formats of published data sets."""
