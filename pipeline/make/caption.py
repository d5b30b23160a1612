"""Caption the real images of a source, once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.make.isolate import Failure, map_isolated
from schemas.sample import CAPTION_ERROR, Sample
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
) -> list[CaptionRow]:
    """Caption the images of a source shard.

    Args:
        keys: Caption these alone; None: all.

    Returns:
        A row for each image that could be read and described, in the shard's order; the others
        become failed rows when their synthetic images are due.
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

    texts = map_isolated(samples, describe, batch_size=BATCH_SIZE)
    rows = []
    for sample, text in zip(samples, texts, strict=True):
        if isinstance(text, Failure):
            logger.warning("caption_failed key=%s reason=%s", sample.key, text.reason)
        else:
            rows.append(CaptionRow(sample.key, text, captioner.model_id))
    return rows


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
    """
    missing = shards_without_captions(store, source.shards("train"))
    for shard in missing:
        write_captions(store, shard.name, caption_shard(source, shard, captioner))
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
