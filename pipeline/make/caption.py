"""Caption the real images of a source, once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.make.isolate import Failure, map_isolated
from schemas.errors import RunFailedError
from schemas.sample import CAPTION_ERROR, Sample
from schemas.systematic import FailureTally
from storage.records.captions import (
    CaptionRow,
    add_captions,
    captioned_shards,
    damaged_shards,
    read_captions,
    write_captions,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from perception.captioner import Captioner
    from schemas.sample import SourceShard
    from schemas.unit import Unit
    from sources.protocol import LabelledSource
    from storage.files.stores import RunStore

logger = logging.getLogger(__name__)

BATCH_SIZE = 16


@dataclass(frozen=True, slots=True)
class SourceCaptions:
    """Takes the captions that the source itself has."""

    model_id: str = "source"


def caption_shard(
    source: LabelledSource,
    shard: SourceShard,
    captioner: Captioner | SourceCaptions,
    *,
    keys: Sequence[str] | None = None,
    tally: FailureTally | None = None,
) -> list[CaptionRow]:
    """Caption the images of a source shard.

    Args:
        keys: Caption these alone; None: all.
        tally: Of the whole pass; None: no failure counts for more than its image.

    Returns:
        A row for each image that could be read and described, in the shard's order; the others
        become failed rows when their synthetic images are due.

    Raises:
        RunFailedError: If (nearly) all images of the pass fail the same way.
    """
    samples = [each for each in source.read(shard, keys) if isinstance(each, Sample)]
    if isinstance(captioner, SourceCaptions):
        return [
            CaptionRow(each.key, each.caption, captioner.model_id)
            for each in samples
            if CAPTION_ERROR not in each.meta
        ]

    def describe(batch: Sequence[Sample]) -> list[str]:
        return captioner.caption([s.image for s in batch], keys=[s.key for s in batch])

    rows = []
    for start in range(0, len(samples), BATCH_SIZE):
        batch = samples[start : start + BATCH_SIZE]
        texts = map_isolated(batch, describe, batch_size=BATCH_SIZE)
        for sample, text in zip(batch, texts, strict=True):
            if isinstance(text, Failure):
                logger.warning("caption_failed key=%s reason=%s", sample.key, text.reason)
            else:
                rows.append(CaptionRow(sample.key, text, captioner.model_id))
            if tally is not None:
                tally.add(*((text.reason, text.detail) if isinstance(text, Failure) else ()))
        _expect_single_failures(tally, captioner.model_id)
    return rows


def _expect_single_failures(tally: FailureTally | None, model_id: str) -> None:
    if tally is not None and (cause := tally.systematic()):
        raise RunFailedError(
            f"captioning stopped: of the images that {model_id} was to describe {cause}; look at "
            "model.captioner_path, or choose another model.captioner (none: no captions)"
        )


def shards_without_captions(
    store: RunStore, shards: Sequence[SourceShard]
) -> tuple[SourceShard, ...]:
    """Shards that the caption pass has yet to do, and those whose captions cannot be read."""
    done = captioned_shards(store)
    if done:
        done -= damaged_shards(store)
    return tuple(shard for shard in shards if shard.name not in done)


def caption_source(
    store: RunStore, source: LabelledSource, captioner: Captioner | SourceCaptions
) -> int:
    """Caption all shards of the train split that have no captions yet, in this process.

    Returns:
        The number of shards done.

    Raises:
        RunFailedError: If (nearly) all images fail the same way.
    """
    missing = shards_without_captions(store, source.shards("train"))
    tally = FailureTally(total=sum(len(shard.keys) for shard in missing))
    for shard in missing:
        rows = caption_shard(source, shard, captioner, tally=tally)
        write_captions(store, shard.name, rows)
    return len(missing)


def missing_captions(store: RunStore, units: Sequence[Unit]) -> dict[str, list[str]]:
    """Source keys of units that have no caption, by source shard.

    No keys stand for all keys of a shard whose captions cannot be read.
    """
    damaged = damaged_shards(store)
    captions = read_captions(store, leave_out=damaged)
    missing: dict[str, list[str]] = {shard: [] for shard in damaged}
    for unit in units:
        if unit.source_shard in damaged:
            continue
        lacking = [key for key in unit.keys if (unit.source_shard, key) not in captions]
        if lacking and unit.kind == "synthesize":
            missing.setdefault(unit.source_shard, []).extend(lacking)
    return missing


def caption_missing(
    store: RunStore,
    source: LabelledSource,
    captioner: Captioner | SourceCaptions,
    missing: Mapping[str, Sequence[str]],
) -> int:
    """Caption images that the caption pass left out, as far as they can be read now.

    Returns:
        The number of captions added.
    """
    added = 0
    for shard in source.shards("train"):
        if shard.name in missing:
            keys = missing[shard.name] or None
            rows = caption_shard(source, shard, captioner, keys=keys)
            if rows:
                add_captions(store, shard.name, rows, is_complete=keys is None)
            added += len(rows)
    return added
