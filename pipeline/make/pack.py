"""Labelled samples to a committed shard."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline.loop.retry import standing_instead
from pipeline.make.result import UnitResult, count_reasons, count_statuses
from pipeline.make.rows import failed_row, planned_rows, provenance
from schemas.run_layout import shard_path
from schemas.sample import IMAGE_MEMBER, Sample
from storage.manifests.table import UnitCommit, commit_unit
from storage.samples.codecs import encode_sample
from storage.samples.shards import pack_tar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.make.isolate import Failure
    from pipeline.make.rows import Draft
    from schemas.config import RunConfig
    from schemas.manifest import ManifestRow
    from schemas.unit import Unit
    from storage.files.stores import RunStore


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedSample:
    """A sample ready for the tar: its row and its members."""

    row: ManifestRow
    members: dict[str, bytes]


def encode_draft(draft: Draft) -> EncodedSample:
    """Encode a sample; an image that was stored before keeps its bytes.

    Raises:
        SampleError: If an array does not fit its encoding.
    """
    row = draft.row
    members = encode_sample(
        Sample(
            key=row.key,
            image=draft.image,
            labels=draft.labels,
            confidence=draft.confidence,
            caption=row.caption,
            is_synthetic=True,
            meta=provenance(row),
        )
    )
    if draft.image_png is not None:
        members[IMAGE_MEMBER] = draft.image_png
    return EncodedSample(row=row, members=members)


def commit_samples(
    store: RunStore, unit: Unit, items: Sequence[EncodedSample | ManifestRow], result: UnitResult
) -> UnitResult:
    """Write the tar of an attempt, then commit its manifest if no other attempt did.

    A retry that made no more good samples than there were leaves what stands.

    Args:
        store: The run.
        unit: The unit.
        items: One entry for each sample of the unit: encoded ones go into the tar, rows are those
            of samples that fell out.
        result: Who made it with which weights, and what it took so far.

    Returns:
        ``result`` with counts, size and whether the attempt is the visible one.
    """
    kept = [item for item in items if isinstance(item, EncodedSample)]
    rows = [item.row if isinstance(item, EncodedSample) else item for item in items]
    if unit.revision and (standing := standing_instead(store, unit, rows, result)):
        commit_unit(store, standing)
        return _counted(result, rows)
    tar_bytes = 0
    if kept:
        packed = pack_tar((item.row.key, item.members) for item in kept)
        path = shard_path(
            round_index=unit.round,
            version=result.creation_version,
            unit_id=unit.unit_id,
            attempt=result.attempt,
        )
        store.write_bytes(path, packed.data)
        tar_bytes = len(packed.data)
        rows = [_placed(row, path, packed.sha256, packed.offsets.get(row.key)) for row in rows]
    created_at = datetime.now(UTC).isoformat(timespec="seconds")
    return _commit(
        store,
        unit,
        [replace(row, created_at=created_at) for row in rows],
        replace(result, tar_bytes=tar_bytes),
    )


def commit_failed_unit(
    store: RunStore, config: RunConfig, unit: Unit, *, failure: Failure, attempt: str
) -> UnitResult:
    """Commit a unit that could not be made: a ``failed`` row for each of its samples."""
    rows = [failed_row(row, failure) for row in planned_rows(config, unit, attempt=attempt)]
    result = UnitResult(
        unit_id=unit.unit_id, attempt=attempt, creation_version=-1, counts={}, reasons={}
    )
    return commit_samples(store, unit, rows, result)


def _placed(row: ManifestRow, path: str, sha256: str, place: tuple[int, int] | None) -> ManifestRow:
    if place is None:
        return row
    return replace(row, tar_uri=path, tar_sha256=sha256, tar_offset=place[0], tar_size=place[1])


def _commit(store: RunStore, unit: Unit, rows: list[ManifestRow], result: UnitResult) -> UnitResult:
    result = _counted(result, rows)
    is_committed = commit_unit(store, UnitCommit(unit=unit, rows=rows, summary=result.summary()))
    return replace(result, is_committed=is_committed)


def _counted(result: UnitResult, rows: Sequence[ManifestRow]) -> UnitResult:
    return replace(
        result,
        counts=count_statuses(rows),
        reasons=count_reasons(rows, statuses=("filtered", "failed")),
        errors=count_reasons(rows, statuses=("failed",)),
    )
