"""Labelled samples to a committed shard."""

from __future__ import annotations

import os
import platform
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline.make.rows import Draft, failed_row, planned_rows, provenance
from schemas.errors import DamagedShardError
from schemas.run_layout import shard_path
from schemas.sample import IMAGE_MEMBER, Sample
from storage.manifests.table import commit_unit, read_unit
from storage.manifests.unit_outcome import UnitCommit, UnitOutcome, outcome_of
from storage.samples.codecs import encode_sample
from storage.samples.shards import load_shard, pack_tar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.make.attempt import Attempt
    from pipeline.make.isolate import Failure
    from schemas.config import RunConfig
    from schemas.manifest import ManifestRow
    from schemas.unit import Unit
    from storage.files.stores import RunStore


def encode(drafts: Sequence[Draft]) -> list[Draft]:
    """Encode samples; images and true labels that were stored before keep their bytes.

    Raises:
        SampleError: If an array does not fit its encoding.
    """
    return [_encoded(draft) for draft in drafts]


def _encoded(draft: Draft) -> Draft:
    row = draft.row
    members = encode_sample(
        Sample(
            key=row.key,
            image=draft.image,
            labels=dict(draft.labels),
            reliability=dict(draft.reliability),
            caption=row.caption,
            is_synthetic=True,
            meta=provenance(row),
        )
    )
    if draft.image_png is not None:
        members[IMAGE_MEMBER] = draft.image_png
    members |= draft.members
    return Draft(row=row, members=members, is_taken_over=draft.is_taken_over)


def commit_samples(
    store: RunStore,
    unit: Unit,
    drafts: Sequence[Draft],
    attempt: Attempt,
    *,
    seconds: Mapping[str, float] | None = None,
) -> UnitOutcome:
    """Commit what an attempt made, if no other attempt did; a retry only if it is better.

    Args:
        drafts: All samples of the unit; those that are not out are encoded.
        seconds: Time by stage, and ``all``.

    Returns:
        What became of the unit; ``is_committed`` says whether this attempt is the visible one.
    """
    rows = [draft.row for draft in drafts]
    facts = {
        "attempt": attempt.name,
        "epoch": attempt.epoch,
        "worker": f"{platform.node()}:{os.getpid()}",
        "creation_step": max((row.creation_step for row in rows), default=0),
        "seconds": dict(seconds or {}),
        "taken_over": sum(draft.is_taken_over for draft in drafts),
    }
    if unit.revision and (standing := _no_worse_than(store, unit, rows)):
        found = outcome_of(UnitCommit(unit=unit, rows=rows, summary=facts))
        note = {"attempt": attempt.name, "counts": found.counts}
        summary = {**standing.summary, "retried_in_vain": note}
        commit_unit(store, UnitCommit(unit=unit, rows=standing.rows, summary=summary))
        return replace(found, is_committed=False)
    rows, facts["tar_bytes"] = _write_tar(store, unit, drafts, attempt)
    outcome = outcome_of(UnitCommit(unit=unit, rows=rows, summary=facts))
    commit = UnitCommit(unit=unit, rows=rows, summary=outcome.summary())
    return replace(outcome, is_committed=commit_unit(store, commit))


def commit_failed_unit(
    store: RunStore, config: RunConfig, unit: Unit, *, failure: Failure, attempt: Attempt
) -> UnitOutcome:
    """Commit a unit that could not be made: a ``failed`` row for each of its samples."""
    rows = planned_rows(config, unit, attempt=attempt.name)
    drafts = [Draft(row=failed_row(row, failure)) for row in rows]
    return commit_samples(store, unit, drafts, attempt)


def _no_worse_than(store: RunStore, unit: Unit, rows: Sequence[ManifestRow]) -> UnitCommit | None:
    """The committed revision of a unit, if a retry made no more good samples.

    A retry must not take away what was there. The committed rows are committed again, with a note
    of the attempt, so that the retry has an end.

    Args:
        unit: The unit, its revision above 0.

    Returns:
        The revision; None if the retry is better, the revision is gone or damaged, or another
        retry came first.
    """
    try:
        standing = read_unit(store, unit.round, unit.unit_id)
        for uri, sha256 in {(r.tar_uri, r.tar_sha256) for r in standing.rows if r.status == "ok"}:
            load_shard(store, uri, sha256)
    except (FileNotFoundError, DamagedShardError):
        return None
    is_late = standing.unit.revision >= unit.revision
    before, now = (Counter(row.status for row in each)["ok"] for each in (standing.rows, rows))
    return None if is_late or now > before else standing


def _write_tar(
    store: RunStore, unit: Unit, drafts: Sequence[Draft], attempt: Attempt
) -> tuple[list[ManifestRow], int]:
    """Write the tar of an attempt; returns all rows, with their places, and its bytes."""
    created_at = datetime.now(UTC).isoformat(timespec="seconds")
    rows = [replace(draft.row, created_at=created_at) for draft in drafts]
    kept = [draft for draft in drafts if draft.is_in]
    if not kept:
        return rows, 0
    packed = pack_tar((draft.row.key, draft.members) for draft in kept)
    path = shard_path(
        round_index=unit.round,
        version=max(row.creation_version for row in rows),
        unit_id=unit.unit_id,
        attempt=attempt.name,
    )
    store.write_bytes(path, packed.data)
    places = packed.offsets
    placed = [
        replace(
            row,
            tar_uri=path,
            tar_sha256=packed.sha256,
            tar_offset=places[row.key][0],
            tar_size=places[row.key][1],
        )
        if row.key in places
        else row
        for row in rows
    ]
    return placed, len(packed.data)
