"""Take bytes out of a run: mark the rows first, remove the objects then."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from schemas.errors import AlreadyCommittedError
from schemas.run_layout import COLLECTED_WEIGHTS_DIR, weights_dir
from schemas.weights import WEIGHTS_MANIFEST
from storage.files.inventory import remove_file
from storage.manifests.table import commit_unit
from storage.manifests.unit_outcome import UnitCommit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.manifest import ManifestRow
    from storage.files.stores import RunStore

COLLECTED = "collected"
SUPERSEDED = "superseded"


def collect_labels(store: RunStore, commit: UnitCommit, paths: Sequence[str]) -> bool:
    """Remove the tars of a unit whose labels were superseded.

    A revision is committed first in which the unit's good rows are ``collected`` and name no tar,
    so no visible row ever lacks its bytes. A process that dies in between leaves tars that no
    manifest names.

    Args:
        store: The run.
        commit: The unit as it stands.
        paths: Its tars.

    Returns:
        False if another revision came first: nothing was removed.
    """
    unit = replace(commit.unit, revision=commit.unit.revision + 1)
    marked = UnitCommit(
        unit=unit, rows=[_collected(row) for row in commit.rows], summary=dict(commit.summary)
    )
    if not commit_unit(store, marked):
        return False
    for path in paths:
        remove_file(store, path)
    return True


def collect_weights(store: RunStore, version: int, paths: Sequence[str]) -> None:
    """Remove a version of weights; what its manifest said stays for those who trace a row.

    The copy of the manifest comes first, then the manifest goes, which ends the version, then the
    tensors.

    Args:
        store: The run.
        version: The version.
        paths: Its objects, the manifest first.
    """
    manifest = f"{weights_dir(version)}/{WEIGHTS_MANIFEST}"
    if manifest in paths:
        # A process before this one may have come as far.
        with suppress(AlreadyCommittedError, FileNotFoundError):
            store.put_if_absent(collected_weights_path(version), store.read_bytes(manifest))
    for path in paths:
        remove_file(store, path)


def collected_weights_path(version: int) -> str:
    """Where a removed version's manifest stays."""
    return f"{COLLECTED_WEIGHTS_DIR}/v{version:08d}.json"


def _collected(row: ManifestRow) -> ManifestRow:
    if row.status != "ok":
        return row
    return replace(
        row,
        status=COLLECTED,
        error_class=SUPERSEDED,
        error_msg="newer labels of the same image replaced these, and jobs/gc.py removed them",
        tar_uri="",
        tar_offset=-1,
        tar_size=-1,
        tar_sha256="",
    )
