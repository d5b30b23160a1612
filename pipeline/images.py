"""The images of a unit: made from real ones, or stored by an earlier unit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from perception.seeding import sample_seed
from pipeline.isolate import Failure, map_isolated
from pipeline.plan import image_maker_id
from pipeline.rows import Draft, failed_row, pixels_sha256, planned_rows
from pipeline.synthesize import ImageOrder, MomentsCache, create_images
from pipeline.unlabelled import UnlabelledPool
from schemas.errors import SourceError
from schemas.sample import UnreadableSample
from storage.captions import read_captions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from perception.diffusion.backbone import DiffusionBackbone
    from pipeline.isolate import BeforeBatch
    from schemas.config import RunConfig
    from schemas.manifest import ManifestRow
    from schemas.sample import Sample
    from schemas.unit import Unit
    from sources.protocol import LabelledSource
    from storage.captions import CaptionRow
    from storage.filesystem import RunStore


@dataclass(frozen=True, kw_only=True, slots=True)
class _Planned:
    row: ManifestRow
    order: ImageOrder


class ImageMaker:
    """Makes the images of ``synthesize`` units; remembers captions and encoded real images.

    Args:
        config: The run's configuration.
        store: The run; holds the captions.
        source: Where the real images come from.
        backbone: The frozen diffusion model.
    """

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
        self._moments = MomentsCache()
        self._pool: UnlabelledPool | None = None
        if config.creator.kind == "unlabelled":
            self._pool = UnlabelledPool(source, variants=config.plan.variants)

    def make(
        self, unit: Unit, *, attempt: str, before_batch: BeforeBatch | None = None
    ) -> list[Draft | ManifestRow]:
        """Make the images of a unit.

        Args:
            unit: A ``synthesize`` unit.
            attempt: Name of the attempt at it.
            before_batch: See :func:`pipeline.isolate.map_isolated`.

        Returns:
            One entry for each planned sample, keys outermost: a draft, or the row of a sample
            whose real image cannot be read or whose synthesis failed.

        Raises:
            SourceError: If the source has no such shard.
            DamagedShardError: If the source's shard is damaged.
        """
        planned = self._plan(unit, attempt)
        ready = [item for item in planned if isinstance(item, _Planned)]
        images = iter(
            map_isolated(
                [item.order for item in ready],
                self._create,
                batch_size=self._config.creator.batch_size,
                before_batch=before_batch,
            )
        )
        return [
            _drafted(item.row, next(images)) if isinstance(item, _Planned) else item
            for item in planned
        ]

    def _create(self, orders: Sequence[ImageOrder]) -> list[NDArray[np.uint8]]:
        return list(
            create_images(
                self._backbone, orders, settings=self._config.creator, moments=self._moments
            )
        )

    def _plan(self, unit: Unit, attempt: str) -> list[_Planned | ManifestRow]:
        if self._pool is not None:
            rows = planned_rows(self._config, unit, attempt=attempt)
            return [self._planned_unlabelled(self._pool, row) for row in rows]
        shard = self._shards.get(unit.source_shard)
        if shard is None:
            raise SourceError(
                f"unit {unit.unit_id}: wanted source shard {unit.source_shard!r}, found "
                f"{sorted(self._shards)[:5]}; use the source that the run was started with"
            )
        samples = {sample.key: sample for sample in self._source.read(shard, unit.keys)}
        return [
            self._planned(unit, replace(row, source_uri=shard.uri), samples.get(row.source_key))
            for row in planned_rows(self._config, unit, attempt=attempt)
        ]

    def _planned(
        self, unit: Unit, row: ManifestRow, sample: Sample | UnreadableSample | None
    ) -> _Planned | ManifestRow:
        if sample is None:
            return failed_row(row, Failure("source_missing", "the source has no such key"))
        if isinstance(sample, UnreadableSample):
            row = replace(row, source_uri=sample.uri)
            return failed_row(row, Failure(sample.reason, sample.detail))
        caption = self._caption(unit.source_shard, sample.key)
        if caption is None:
            return failed_row(row, Failure("caption_missing", "the caption pass left it out"))
        seed = sample_seed(image_maker_id(unit), sample.key, row.variant)
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
            source_shard=unit.source_shard, source=sample, caption=caption.caption, seed=seed
        )
        return _Planned(row=row, order=order)

    def _planned_unlabelled(self, pool: UnlabelledPool, row: ManifestRow) -> _Planned | ManifestRow:
        shard, found = pool.read(row.source_shard, row.source_key, row.variant)
        row = replace(row, source_uri=shard.uri)
        if isinstance(found, UnreadableSample):
            return failed_row(row, Failure(found.reason, found.detail))
        row = replace(row, source_sha256=pixels_sha256(found.image))
        order = ImageOrder(source_shard=shard.name, source=found, caption="", seed=0)
        return _Planned(row=row, order=order)

    def _caption(self, shard: str, key: str) -> CaptionRow | None:
        if (shard, key) not in self._captions:
            self._captions = read_captions(self._store)
        return self._captions.get((shard, key))


def _drafted(row: ManifestRow, made: NDArray[np.uint8] | Failure) -> Draft | ManifestRow:
    if isinstance(made, Failure):
        return failed_row(row, made)
    height, width = made.shape[:2]
    return Draft(row=replace(row, height=height, width=width), image=made)
