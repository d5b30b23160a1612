"""Paths within a run directory: the stable interface that users and tools rely on.

All paths are relative to the run's root and use forward slashes.
"""

from __future__ import annotations

import re

CONFIG_FILE = "config.resolved.yaml"
RESULTS_FILE = "results.json"
CONTACT_SHEET_FILE = "contact_sheet.png"
CAPTIONS_DIR = "captions"
SHARDS_DIR = "shards"
UNITS_DIR = "manifest/units"
WEIGHTS_DIR = "weights"
CHECKPOINTS_DIR = "checkpoints"
EVENTS_DIR = "events"

_VERSION_DIR = re.compile(r"^v(\d{8})$")


def captions_path(source_shard: str) -> str:
    """Captions of one source shard."""
    return f"{CAPTIONS_DIR}/{source_shard}.parquet"


def shard_path(*, round_index: int, version: int, unit_id: str, attempt: str) -> str:
    """Tar of one attempt at one unit; never written twice."""
    return f"{SHARDS_DIR}/r={round_index:04d}/w={version:08d}/{unit_id}.{attempt}.tar"


def unit_manifest_path(*, round_index: int, unit_id: str) -> str:
    """Commit point of a unit."""
    return f"{UNITS_DIR}/{round_dir(round_index)}/{unit_id}.parquet"


def round_dir(round_index: int) -> str:
    """Folder name of one round."""
    return f"r={round_index:04d}"


def weights_dir(version: int) -> str:
    """Folder of one version of creation weights."""
    return f"{WEIGHTS_DIR}/v{version:08d}"


def parse_weights_dir(name: str) -> int | None:
    """Version of a folder name made by :func:`weights_dir`; None if it is something else."""
    match = _VERSION_DIR.match(name)
    return int(match.group(1)) if match else None
