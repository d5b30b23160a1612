"""Digests of stored bytes and of what decides a run."""

from __future__ import annotations

import hashlib
import json


def sha256_of(data: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits: shards, weights and checkpoints are checked by it."""
    return hashlib.sha256(data).hexdigest()


def digest_of(value: object) -> str:
    """Sixteen hexadecimal digits of a JSON value; keys of objects may come in any order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
