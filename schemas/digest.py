"""The digest that shards, weights and checkpoints are checked by."""

from __future__ import annotations

import hashlib


def sha256_of(data: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
