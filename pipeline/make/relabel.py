"""Take the stored images of an earlier unit to label them again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.make.isolate import Failure, failure_of
from pipeline.make.rows import Draft, failed_row
from schemas.errors import SampleError
from schemas.sample import IMAGE_MEMBER
from storage.manifests.table import read_unit
from storage.samples.codecs import decode_image
from storage.samples.shards import load_shard, read_tar

if TYPE_CHECKING:
    from schemas.manifest import ManifestRow
    from schemas.unit import Unit
    from storage.files.stores import RunStore


def stored_drafts(store: RunStore, unit: Unit, *, attempt: str) -> list[Draft | ManifestRow]:
    """Read the images of a ``relabel`` unit's parent.

    Args:
        store: The run.
        unit: A ``relabel`` unit of round 1 or later.
        attempt: Name of the attempt at ``unit``.

    Returns:
        One entry for each row of the parent, in its order: a draft with the image and its stored
        bytes; a row for a sample that has no image, with the parent's reason.

    Raises:
        FileNotFoundError: If the parent is not committed.
        DamagedShardError: If its manifest or tar is damaged.
    """
    parent = read_unit(store, 0, unit.parent_unit_id, has_own_file=True)
    good = next((row for row in parent.rows if row.status == "ok"), None)
    images: dict[str, bytes] = {}
    if good is not None:
        tar = load_shard(store, good.tar_uri, good.tar_sha256)
        images = {key: members.get(IMAGE_MEMBER, b"") for key, members in read_tar(tar)}
    return [_draft(_row(row, unit, attempt), images.get(row.key)) for row in parent.rows]


def _draft(row: ManifestRow, image_png: bytes | None) -> Draft | ManifestRow:
    if row.status != "ok":
        return row
    if image_png is None:
        return failed_row(row, Failure("image_missing", "not in the tar of the parent unit"))
    try:
        image = decode_image(image_png)
    except SampleError as error:
        return failed_row(row, failure_of(error))
    return Draft(row=row, image=image, image_png=image_png)


def _row(row: ManifestRow, unit: Unit, attempt: str) -> ManifestRow:
    return replace(
        row,
        round=unit.round,
        unit_id=unit.unit_id,
        unit_kind=unit.kind,
        parent_unit_id=unit.parent_unit_id,
        attempt=attempt,
        tar_uri="",
        tar_offset=-1,
        tar_size=-1,
        tar_sha256="",
        creation_version=-1,
        creation_step=0,
        head_hash="",
        label_stats="{}",
        quality="{}",
        gen_seconds=0.0,
        created_at="",
    )
