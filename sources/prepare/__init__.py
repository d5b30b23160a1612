"""Convert published data sets to shards and report on them."""
