"""The images of a unit: made from real ones, or stored by an earlier unit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from perception.diffusion.moments import MomentsCache
from perception.seeding import sample_seed
from pipeline.make.drain import UnitGivenBackError
from pipeline.make.history import Care
from pipeline.make.isolate import Failure, isolated_batches
from pipeline.make.partial import PartialImages, write_partial
from pipeline.make.rows import Draft, failed_row, pixels_sha256, planned_rows
from pipeline.make.synthesize import ImageOrder, create_images
from pipeline.make.unlabelled import UnlabelledPool
from schemas.errors import SourceError
from schemas.sample import UnreadableSample
from storage.records.captions import read_captions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from perception.diffusion.backbone import DiffusionBackbone
    from pipeline.make.isolate import BeforeBatch
    from schemas.config import RunConfig
    from schemas.manifest import ManifestRow
    from schemas.sample import Sample, SourceShard
    from schemas.unit import Unit
    from sources.protocol import LabelledSource
    from storage.files.stores import RunStore
    from storage.records.captions import CaptionRow


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
        self,
        unit: Unit,
        *,
        attempt: str,
        before_batch: BeforeBatch | None = None,
        care: Care | None = None,
    ) -> list[Draft | ManifestRow]:
        """Make the images of a unit, but for those that earlier attempts have stored.

        Args:
            unit: A ``synthesize`` unit.
            attempt: Name of the attempt at it.
            before_batch: See :func:`pipeline.make.isolate.map_isolated`.
            care: What earlier attempts left, and how careful this one has to be.

        Returns:
            One entry for each planned sample, keys outermost: a draft, or the row of a sample
            whose real image cannot be read or whose synthesis failed.

        Raises:
            SourceError: If the source has no such shard.
            DamagedShardError: If the source's shard is damaged.
            UnitGivenBackError: If ``before_batch`` raised it; the images made so far are stored.
        """
        care = care or Care(self._store, unit, attempt)
        planned = self._plan(unit, attempt, care)
        care.working_on([])
        stored = PartialImages(self._store, care.partials)
        found = [_taken_over(item, stored) for item in planned]
        made = iter(self._made(unit, attempt, found, before_batch=before_batch, care=care))
        return [next(made) if isinstance(item, _Planned) else item for item in found]

    def _made(
        self,
        unit: Unit,
        attempt: str,
        found: Sequence[_Planned | Draft | ManifestRow],
        *,
        before_batch: BeforeBatch | None,
        care: Care,
    ) -> list[Draft | ManifestRow]:
        """Make the images that are not there yet; what has to be given back is stored.

        Raises:
            UnitGivenBackError: As :meth:`make`.
        """

        def create(batch: Sequence[_Planned]) -> list[NDArray[np.uint8]]:
            care.working_on([item.row.key for item in batch])
            return self._create([item.order for item in batch])

        ready = [item for item in found if isinstance(item, _Planned)]
        batch_size = care.batch_size(self._config.creator.batch_size)
        made: list[Draft | ManifestRow] = []
        rows = (item.row for item in ready)
        try:
            for images in isolated_batches(
                ready, create, batch_size=batch_size, before_batch=before_batch
            ):
                made += [_drafted(next(rows), image) for image in images]
        except UnitGivenBackError as error:
            drafts = [item for item in made if isinstance(item, Draft)]
            partial = write_partial(self._store, unit, attempt, drafts)
            error.keep(partial, kept=len(drafts) if partial else 0)
            raise
        return made

    def _create(self, orders: Sequence[ImageOrder]) -> list[NDArray[np.uint8]]:
        return list(
            create_images(
                self._backbone, orders, settings=self._config.creator, moments=self._moments
            )
        )

    def _plan(self, unit: Unit, attempt: str, care: Care) -> list[_Planned | ManifestRow]:
        rows = planned_rows(self._config, unit, attempt=attempt)
        if self._pool is not None:
            pool = self._pool
            return [self._planned_unlabelled(pool, row, care) for row in rows]
        shard = self._shards.get(unit.source_shard)
        if shard is None:
            raise SourceError(
                f"unit {unit.unit_id}: wanted source shard {unit.source_shard!r}, found "
                f"{sorted(self._shards)[:5]}; use the source that the run was started with"
            )
        rows = [replace(row, source_uri=shard.uri) for row in rows]
        samples = self._read(shard, rows, care)
        return [self._planned(unit, row, samples.get(row.source_key), care) for row in rows]

    def _read(
        self, shard: SourceShard, rows: Sequence[ManifestRow], care: Care
    ) -> dict[str, Sample | UnreadableSample]:
        """Read real images; with care one by one, for a decoder may die of one, too."""
        names: dict[str, list[str]] = {}
        for row in rows:
            if row.key not in care.killers:
                names.setdefault(row.source_key, []).append(row.key)
        if not care.is_careful:
            return {sample.key: sample for sample in self._source.read(shard, list(names))}
        found: dict[str, Sample | UnreadableSample] = {}
        for source_key, keys in names.items():
            care.working_on(keys)
            found |= {sample.key: sample for sample in self._source.read(shard, [source_key])}
        return found

    def _planned(
        self, unit: Unit, row: ManifestRow, sample: Sample | UnreadableSample | None, care: Care
    ) -> _Planned | ManifestRow:
        if row.key in care.killers:
            return failed_row(row, care.killers[row.key])
        if sample is None:
            return failed_row(row, Failure("source_missing", "the source has no such key"))
        if isinstance(sample, UnreadableSample):
            row = replace(row, source_uri=sample.uri)
            return failed_row(row, Failure(sample.reason, sample.detail))
        caption = self._caption(unit.source_shard, sample.key)
        if caption is None:
            return failed_row(row, Failure("caption_missing", "the caption pass left it out"))
        seed = sample_seed(unit.image_unit_id, sample.key, row.variant)
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

    def _planned_unlabelled(
        self, pool: UnlabelledPool, row: ManifestRow, care: Care
    ) -> _Planned | ManifestRow:
        if row.key in care.killers:
            return failed_row(row, care.killers[row.key])
        care.working_on([row.key])
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


def _taken_over(
    item: _Planned | ManifestRow, stored: PartialImages
) -> _Planned | Draft | ManifestRow:
    image = stored.get(item.row) if isinstance(item, _Planned) else None
    if image is None or not isinstance(item, _Planned):
        return item
    height, width = image.shape[:2]
    row = replace(item.row, height=height, width=width)
    return Draft(row=row, image=image, is_taken_over=True)
