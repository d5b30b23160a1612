"""Reads a run directory with general tools alone: nothing of the project's own readers."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def unit_files(run: Path) -> list[Path]:
    return sorted(run.glob("manifest/units/r=*/*.parquet"))


def manifest_rows(run: Path) -> list[dict[str, Any]]:
    return [row for path in unit_files(run) for row in pq.ParquetFile(path).read().to_pylist()]


def version_files(run: Path) -> list[Path]:
    return sorted(run.glob("weights/v*/manifest.json"))


def tars(run: Path) -> dict[str, str]:
    """Path of each shard that a manifest names, and the digest it gives."""
    return {r["tar_uri"]: r["tar_sha256"] for r in manifest_rows(run) if r["status"] == "ok"}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def members_by_key(path: Path) -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, name = member.name.partition(".")
            stream = tar.extractfile(member)
            assert stream is not None
            found.setdefault(key, {})[name] = stream.read()
    return found


def first_rooms(data: Path, count: int) -> list[str]:
    """Keys of the labelled rooms: the first of the train split."""
    rows = pq.read_table(data / "manifest.parquet", columns=["split", "key"]).to_pylist()
    return [row["key"] for row in rows if row["split"] == "train"][:count]
