"""A picture of what a run made: real image, synthetic image and its labels, with the caption."""

from __future__ import annotations

import io
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from runs.pictures import (
    PictureRow,
    class_legend,
    describe_reliability,
    draw_rows,
    label_as_rgb,
)
from schemas.run_layout import CONTACT_SHEET_FILE
from schemas.sample import Sample, Task
from sources.class_names import class_names_of
from sources.live_shards import LiveShardList
from sources.open import open_run_source
from sources.streams import DecodedShards

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence

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
        truth: Labels of the real image, as its source has them; empty if it has none.
        maps: What the creator made with the synthetic image; empty if it makes images alone.
        caption: Text under which it was made.
        note: Where it came from, in small.
    """

    real: NDArray[np.uint8] | None
    synthetic: NDArray[np.uint8]
    labels: dict[Task, NDArray[Any]]
    caption: str
    note: str = ""
    truth: Mapping[Task, NDArray[Any]] = field(default_factory=dict)
    maps: Mapping[Task, NDArray[Any]] = field(default_factory=dict)


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
        sheet = make_contact_sheet(rows, names=class_names_of(config))
        store.write_bytes(CONTACT_SHEET_FILE, sheet)
    return bool(rows)


def rows_of_run(store: RunStore, source: LabelledSource, *, limit: int) -> list[SheetRow]:
    """Choose good samples, evenly over the units, and read them with their real images."""
    live = LiveShardList(store)
    live.refresh(force=True)
    shards = live.shards
    ends = list(accumulate(shard.num_samples for shard in shards))
    wanted = {i * ends[-1] // limit for i in range(limit)} if ends else set()
    decoded = DecodedShards(store, _DECODED_BYTES, with_creator_maps=True)
    real = _RealImages(source)
    rows = []
    for position in sorted(wanted):
        place = bisect_right(ends, position)
        shard = shards[place]
        sample = decoded.get(shard)[position - ends[place]]
        rows.append(_row(sample, shard, real.find(sample)))
    return rows


def make_contact_sheet(
    rows: Sequence[SheetRow], *, names: Mapping[Task, Sequence[str]] | None = None
) -> bytes:
    """Draw rows of ``real | synthetic | labels`` with the caption under each.

    Where the source labels the real images, those labels stand beside the predicted ones, and so
    do the creator's maps where there are any. Below all, colours of classes are explained.

    Args:
        rows: At least one; those of the first decide which labels are shown. If none has a real
            image, there is no such column.
        names: Task to the names of its class ids, as far as they are known.

    Returns:
        A PNG file.
    """
    tasks = tuple(rows[0].labels)
    has_real = any(row.real is not None for row in rows)
    with_truth = {task for task in tasks if any(task in row.truth for row in rows)}
    titles = [*(["real"] if has_real else []), "synthetic"]
    with_map = {task for task in tasks if any(task in row.maps for row in rows)}
    for task in tasks:
        titles += [f"{task} of the real", task] if task in with_truth else [task]
        titles += [f"{task} of the creator"] if task in with_map else []
    drawn = [
        PictureRow(
            titles=() if number else titles,
            images=[
                *([row.real] if has_real else []),
                row.synthetic,
                *(cell for task in tasks for cell in _cells(row, task, with_truth, with_map)),
            ],
            text=row.caption or "(no caption)",
            note=row.note,
        )
        for number, row in enumerate(rows)
    ]
    buffer = io.BytesIO()
    shown = {
        task: [
            each[task] for row in rows for each in (row.labels, row.truth, row.maps) if task in each
        ]
        for task in tasks
    }
    picture = draw_rows(drawn, cell_px=(CELL_PX, CELL_PX), legend=class_legend(shown, names or {}))
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _cells(
    row: SheetRow, task: Task, with_truth: Container[Task], with_map: Container[Task]
) -> Iterator[NDArray[np.uint8] | None]:
    """The label; before it that of the real image, after it the creator's map, if it has a column.

    All have the colours of the first.
    """
    truth = row.truth.get(task)
    if task in with_truth:
        yield None if truth is None else label_as_rgb(truth, task)
    yield label_as_rgb(row.labels[task], task, like=truth)
    if task in with_map:
        like = row.labels[task] if truth is None else truth
        yield label_as_rgb(row.maps[task], task, like=like) if task in row.maps else None


def sheet_row(
    sample: Sample,
    *,
    real: NDArray[np.uint8] | None,
    made: Sequence[str],
    truth: Mapping[Task, NDArray[Any]] | None = None,
) -> SheetRow:
    """A row that shows a sample, and how sure its labels are.

    Args:
        real: uint8 RGB [H, W, 3], the image it was made from; None if there is none.
        made: How it was made, for the note.
        truth: Labels of that image, if there are any.
    """
    sure = [f"{task}: {describe_reliability(v, task)}" for task, v in sample.reliability.items()]
    return SheetRow(
        real=real,
        synthetic=sample.image,
        labels=sample.labels,
        caption=sample.caption,
        note="; ".join([*made, *sure]),
        truth=truth or {},
        maps=sample.creator_maps,
    )


def _row(sample: Sample, shard: LiveShard, real: Sample | None) -> SheetRow:
    made_from = f"from {sample.meta.get('source_key', '?')}, T = {sample.meta.get('t_start', '?')}"
    return sheet_row(
        sample,
        real=real.image if real else None,
        made=[made_from, f"labels of version {shard.version}"],
        truth=real.labels if real else None,
    )


class _RealImages:
    """Finds the real image that a synthetic one was made from."""

    def __init__(self, source: LabelledSource) -> None:
        self._source = source
        self._shards = {shard.name: shard for shard in source.shards("train")}

    def find(self, sample: Sample) -> Sample | None:
        shard = self._shards.get(sample.meta.get("source_shard", ""))
        key = sample.meta.get("source_key")
        if shard is None or key not in shard.keys:
            return None
        found = next(iter(self._source.read(shard, [key])))
        return found if isinstance(found, Sample) else None
