"""The real images that synthetic ones are made from, and their captions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from perception.seeding import sample_seed
from pipeline.make.isolate import Failure
from pipeline.make.rows import Draft, ImageOrder, failed_row, pixels_sha256, planned_rows
from schemas.errors import SourceError
from schemas.sample import CAPTION_ERROR, UnreadableSample
from storage.records.captions import CaptionRow, read_captions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perception.diffusion.backbone import DiffusionBackbone
    from schemas.config import RunConfig
    from schemas.sample import Sample
    from schemas.unit import Unit
    from sources.protocol import LabelledSource
    from storage.files.stores import RunStore


class RealImages:
    """Reads the real images of ``synthesize`` units; remembers captions.

    Attributes:
        together: Column of the rows whose equal values name one real image.

    Args:
        store: The run; holds the captions.
        backbone: The frozen diffusion model, named in the rows.
    """

    together = "source_key"

    def __init__(
        self,
        config: RunConfig,
        *,
        store: RunStore,
        source: LabelledSource,
        backbone: DiffusionBackbone,
    ) -> None:
        self._config = config
        self._store = store
        self._source = source
        self._backbone = backbone
        self._shards = {shard.name: shard for shard in source.shards("train")}
        self._captions: dict[tuple[str, str], CaptionRow] = {}

    def planned(self, unit: Unit, *, attempt: str) -> list[Draft]:
        """The samples of a unit before anything was done for them.

        Raises:
            SourceError: If the source has no such shard.
        """
        shard = self._shards.get(unit.source_shard)
        if shard is None:
            raise SourceError(
                f"unit {unit.unit_id}: wanted source shard {unit.source_shard!r}, found "
                f"{sorted(self._shards)[:5]}; use the source that the run was started with"
            )
        rows = planned_rows(self._config, unit, attempt=attempt)
        return [Draft(row=replace(row, source_uri=shard.uri)) for row in rows]

    def read(self, drafts: Sequence[Draft]) -> list[Draft]:
        """Read what the images of some samples of one unit are made from.

        Raises:
            DamagedShardError: If the source's shard is damaged.
        """
        shard = self._shards[drafts[0].row.source_shard]
        names = list(dict.fromkeys(draft.row.source_key for draft in drafts))
        found = {sample.key: sample for sample in self._source.read(shard, names)}
        return [self._ordered(draft, found.get(draft.row.source_key)) for draft in drafts]

    def _ordered(self, draft: Draft, sample: Sample | UnreadableSample | None) -> Draft:
        row = draft.row
        if sample is None:
            failure = Failure("source_missing", "the source has no such key")
            return draft.out(failed_row(row, failure))
        if isinstance(sample, UnreadableSample):
            return _unreadable(draft, sample, uri=sample.uri)
        caption = self._caption(row.source_shard, sample.key)
        if caption is None and self._config.creator.start:
            failure = _without_caption(sample)
            return draft.out(failed_row(row, failure))
        caption = caption or CaptionRow(sample.key, "", "")
        seed = sample_seed(row.unit_id, sample.key, row.variant)
        row = replace(
            row,
            source_sha256=pixels_sha256(sample.image),
            caption=caption.caption,
            caption_model=caption.model,
            seed=seed,
            diffusion_base_hash=self._backbone.model_id,
            device=str(self._backbone.device),
        )
        order = ImageOrder(
            source_shard=row.source_shard, source=sample, caption=caption.caption, seed=seed
        )
        return replace(draft, row=row, order=order)

    def _caption(self, shard: str, key: str) -> CaptionRow | None:
        if (shard, key) not in self._captions:
            self._captions = read_captions(self._store)
        return self._captions.get((shard, key))


class UnlabelledPool:
    """Gives every planned sample a real image of its own, without its labels.

    These take the place of synthetic ones in Table 8 of Diff-2-in-1. Used like
    :class:`RealImages`.

    Args:
        source: Its split ``unlabelled`` is the pool.

    Raises:
        SourceError: If the pool holds fewer images than are planned.
    """

    together = "key"

    def __init__(self, config: RunConfig, source: LabelledSource) -> None:
        self._config = config
        self._source = source
        self._variants = variants = config.plan.variants
        self._images = [(shard, key) for shard in source.shards("unlabelled") for key in shard.keys]
        labelled = [(shard.name, key) for shard in source.shards("train") for key in shard.keys]
        self._places = {which: place for place, which in enumerate(labelled)}
        wanted = len(labelled) * variants
        if len(self._images) < wanted:
            raise SourceError(
                f"source {source.name}: creator.kind = unlabelled wants {wanted} images without "
                f"labels ({len(labelled)} labelled x {variants} variants), found "
                f"{len(self._images)}; lower source.num_labelled or plan.variants"
            )

    def planned(self, unit: Unit, *, attempt: str) -> list[Draft]:
        """The samples of a unit before anything was done for them."""
        return [Draft(row=row) for row in planned_rows(self._config, unit, attempt=attempt)]

    def read(self, drafts: Sequence[Draft]) -> list[Draft]:
        """Read the images that stand for some planned samples."""
        return [self._ordered(draft) for draft in drafts]

    def _ordered(self, draft: Draft) -> Draft:
        row = draft.row
        place = self._places[row.source_shard, row.source_key] * self._variants + row.variant
        shard, name = self._images[place]
        found = next(iter(self._source.read(shard, [name])))
        if isinstance(found, UnreadableSample):
            return _unreadable(draft, found, uri=shard.uri)
        row = replace(row, source_uri=shard.uri, source_sha256=pixels_sha256(found.image))
        order = ImageOrder(source_shard=shard.name, source=found, caption="", seed=0)
        return replace(draft, row=row, order=order)


def _without_caption(sample: Sample) -> Failure:
    """Why the caption pass left a sample out."""
    if CAPTION_ERROR in sample.meta:
        return Failure("caption_invalid", str(sample.meta[CAPTION_ERROR]))
    return Failure("caption_missing", "the caption pass left it out")


def _unreadable(draft: Draft, found: UnreadableSample, *, uri: str) -> Draft:
    row = replace(draft.row, source_uri=uri)
    return draft.out(failed_row(row, Failure(found.reason, found.detail)))
