"""A picture of what a run made: real image, synthetic image and its labels, with the caption."""

from __future__ import annotations

import io
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from runs.pictures import PictureRow, describe_reliability, draw_rows, label_as_rgb
from schemas.run_layout import CONTACT_SHEET_FILE
from schemas.sample import Sample, Task
from sources.live_shards import LiveShardList
from sources.open import open_run_source
from sources.streams import DecodedShards

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from schemas.config import RunConfig
    from sources.live_shards import LiveShard
    from sources.protocol import LabelledSource
    from storage.files.stores import RunStore

CELL_PX = 192
_DECODED_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class SheetRow:
    """One row of a contact sheet.

    Attributes:
        real: uint8 RGB [H, W, 3], the image it was made from; None if there is none.
        synthetic: uint8 RGB [H, W, 3].
        labels: Of the synthetic image, encoded as ``schemas.sample`` says.
        caption: Text under which it was made.
        note: Where it came from, in small.
    """

    real: NDArray[np.uint8] | None
    synthetic: NDArray[np.uint8]
    labels: dict[Task, NDArray[Any]]
    caption: str
    note: str = ""


def contact_sheet_from_run(config: RunConfig, store: RunStore, *, limit: int = 8) -> bool:
    """Write contact_sheet.png of a run: evenly chosen synthetic samples under their newest labels.

    Args:
        limit: Rows at most.

    Returns:
        Whether there was anything to show.
    """
    source = open_run_source(config)
    rows = rows_of_run(store, source, limit=limit)
    if rows:
        store.write_bytes(CONTACT_SHEET_FILE, make_contact_sheet(rows))
    return bool(rows)


def rows_of_run(store: RunStore, source: LabelledSource, *, limit: int) -> list[SheetRow]:
    """Choose good samples, evenly over the units, and read them with their real images."""
    live = LiveShardList(store)
    live.refresh(force=True)
    shards = live.shards
    ends = list(accumulate(shard.num_samples for shard in shards))
    wanted = {i * ends[-1] // limit for i in range(limit)} if ends else set()
    decoded = DecodedShards(store, _DECODED_BYTES)
    real = _RealImages(source)
    rows = []
    for position in sorted(wanted):
        place = bisect_right(ends, position)
        shard = shards[place]
        sample = decoded.get(shard)[position - ends[place]]
        rows.append(_row(sample, shard, real.find(sample)))
    return rows


def make_contact_sheet(rows: Sequence[SheetRow]) -> bytes:
    """Draw rows of ``real | synthetic | labels`` with the caption under each.

    Args:
        rows: At least one; those of the first decide which labels are shown. If none has a real
            image, there is no such column.

    Returns:
        A PNG file.
    """
    tasks = tuple(rows[0].labels)
    has_real = any(row.real is not None for row in rows)
    titles = (*(("real",) if has_real else ()), "synthetic", *tasks)
    drawn = [
        PictureRow(
            titles=() if number else titles,
            images=[
                *([row.real] if has_real else []),
                row.synthetic,
                *(label_as_rgb(row.labels[task], task) for task in tasks),
            ],
            text=row.caption or "(no caption)",
            note=row.note,
        )
        for number, row in enumerate(rows)
    ]
    buffer = io.BytesIO()
    draw_rows(drawn, cell_px=(CELL_PX, CELL_PX)).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def sheet_row(sample: Sample, *, real: NDArray[np.uint8] | None, made: Sequence[str]) -> SheetRow:
    """A row that shows a sample, and how sure its labels are.

    Args:
        real: uint8 RGB [H, W, 3], the image it was made from; None if there is none.
        made: How it was made, for the note.
    """
    sure = [f"{task}: {describe_reliability(v, task)}" for task, v in sample.reliability.items()]
    return SheetRow(
        real=real,
        synthetic=sample.image,
        labels=sample.labels,
        caption=sample.caption,
        note="; ".join([*made, *sure]),
    )


def _row(sample: Sample, shard: LiveShard, real: NDArray[np.uint8] | None) -> SheetRow:
    made_from = f"from {sample.meta.get('source_key', '?')}, T = {sample.meta.get('t_start', '?')}"
    return sheet_row(sample, real=real, made=[made_from, f"labels of version {shard.version}"])


class _RealImages:
    """Finds the real image that a synthetic one was made from."""

    def __init__(self, source: LabelledSource) -> None:
        self._source = source
        self._shards = {shard.name: shard for shard in source.shards("train")}

    def find(self, sample: Sample) -> NDArray[np.uint8] | None:
        shard = self._shards.get(sample.meta.get("source_shard", ""))
        key = sample.meta.get("source_key")
        if shard is None or key not in shard.keys:
            return None
        found = next(iter(self._source.read(shard, [key])))
        return found.image if isinstance(found, Sample) else None
