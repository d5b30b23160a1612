"""Where bytes live: filesystems, commits, shards, manifests, weights (no torch, no ray)."""
