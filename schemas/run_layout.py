"""Paths within a run directory: the stable interface that users and tools rely on.

All paths are relative to the run's root and use forward slashes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from schemas.weights import Series

CONFIG_FILE = "config.resolved.yaml"
RESULTS_FILE = "results.json"
DATA_REPORT_FILE = "data_report.json"
SPLITS_FILE = "splits.parquet"
STEERING_FILE = "steering.json"
CONTACT_SHEET_FILE = "contact_sheet.png"
CAPTIONS_DIR = "captions"
SHARDS_DIR = "shards"
UNITS_DIR = "manifest/units"
COMPACTED_DIR = "manifest/compacted"
WEIGHTS_DIR = "weights"
CREATOR_DIR = "creator"
CHECKPOINTS_DIR = "checkpoints"
EVENTS_DIR = "events"
SCORES_DIR = "scores"
LOCK_DIR = "lock"

SUSPECTS_DIR = "suspects"
PARTIAL_DIR = "partial"

SERIES_DIRS: dict[Series, str] = {"creation": WEIGHTS_DIR, "creator": CREATOR_DIR}
"""Folder of each series of published versions."""

_VERSION_DIR = re.compile(r"^v(\d{8})$")
_CAPTIONS = re.compile(r"(.+?)(?:\.more-([0-9]{4}))?\.parquet")
_ROUND_DIR = re.compile(r"r=([0-9]{1,9})")
_UNIT_MANIFEST = re.compile(r"([^.]+)(?:\.rev-([0-9]{4}))?\.parquet")
_EPOCH = re.compile(r"epoch-([0-9]{8})\.json")
_COMPACTED = re.compile(r"part-([0-9]{6})\.parquet")


def captions_path(source_shard: str, addition: int = 0) -> str:
    """Captions of one source shard; from 1: what was added later."""
    suffix = f".more-{addition:04d}" if addition else ""
    return f"{CAPTIONS_DIR}/{source_shard}{suffix}.parquet"


def parse_captions(name: str) -> tuple[str, int] | None:
    """Shard and addition of a file name made by :func:`captions_path`; else None."""
    match = _CAPTIONS.fullmatch(name)
    return (match.group(1), int(match.group(2) or 0)) if match else None


def shard_path(*, round_index: int, version: int, unit_id: str, attempt: str) -> str:
    """Tar of one attempt at one unit; never written twice."""
    return f"{SHARDS_DIR}/r={round_index:04d}/w={version:08d}/{unit_id}.{attempt}.tar"


def unit_manifest_path(*, round_index: int, unit_id: str, revision: int = 0) -> str:
    """Commit point of a unit, or of a later revision of it."""
    suffix = f".rev-{revision:04d}" if revision else ""
    return f"{UNITS_DIR}/{round_dir(round_index)}/{unit_id}{suffix}.parquet"


def parse_unit_manifest(name: str) -> tuple[str, int] | None:
    """Unit id and revision of a file name made by :func:`unit_manifest_path`; else None."""
    match = _UNIT_MANIFEST.fullmatch(name)
    return (match.group(1), int(match.group(2) or 0)) if match else None


def suspects_path(unit_id: str) -> str:
    """Evidence against samples of a unit whose attempts died."""
    return f"{SUSPECTS_DIR}/{unit_id}.json"


def working_on_path(unit_id: str, attempt: str) -> str:
    """What a careful attempt at a unit is working on."""
    return f"{SUSPECTS_DIR}/{unit_id}.{attempt}.json"


def partial_path(unit_id: str, attempt: str) -> str:
    """Images of an attempt that had to leave before its unit was done."""
    return f"{PARTIAL_DIR}/{unit_id}.{attempt}.tar"


def unit_of_file(name: str) -> str:
    """Unit id in the name of a file of one of the two folders above."""
    return name.partition(".")[0]


def compacted_path(number: int) -> str:
    """Many units' manifests in one file."""
    return f"{COMPACTED_DIR}/part-{number:06d}.parquet"


def parse_compacted(name: str) -> int | None:
    """Number of a file name made by :func:`compacted_path`; None if it is something else."""
    match = _COMPACTED.fullmatch(name)
    return int(match.group(1)) if match else None


def round_dir(round_index: int) -> str:
    """Folder name of one round."""
    return f"r={round_index:04d}"


def parse_round_dir(name: str) -> int | None:
    """Round of a folder name made by :func:`round_dir`; None if it is something else."""
    match = _ROUND_DIR.fullmatch(name)
    return int(match.group(1)) if match else None


def weights_dir(version: int, series: Series = "creation") -> str:
    """Folder of one version of published weights."""
    return f"{SERIES_DIRS[series]}/v{version:08d}"


def parse_weights_dir(name: str) -> int | None:
    """Version of a folder name made by :func:`weights_dir`; None if it is something else."""
    match = _VERSION_DIR.match(name)
    return int(match.group(1)) if match else None


def collected_weights_path(version: int, series: Series = "creation") -> str:
    """Where the manifest of a version stays that was removed."""
    return f"{SERIES_DIRS[series]}/collected/v{version:08d}.json"


def scores_path(key: str) -> str:
    """Scores of the run's weights with options that played no part in training."""
    return f"{SCORES_DIR}/{key}.json"


def epoch_path(epoch: int) -> str:
    """Record of the driver that took an epoch of the run."""
    return f"{LOCK_DIR}/epoch-{epoch:08d}.json"


def parse_epoch(name: str) -> int | None:
    """Epoch of a file name made by :func:`epoch_path`; None if it is something else."""
    match = _EPOCH.fullmatch(name)
    return int(match.group(1)) if match else None
