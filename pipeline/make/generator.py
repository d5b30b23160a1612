"""A generator: takes creation weights, makes units, commits them."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from perception.state_file import keys_digest, load_state_bytes
from pipeline.make.drain import Drain
from pipeline.make.history import Care
from pipeline.make.images import ImageMaker
from pipeline.make.isolate import Failure, map_isolated
from pipeline.make.label import label_images, label_seed
from pipeline.make.pack import EncodedSample, commit_samples, encode_draft
from pipeline.make.relabel import stored_drafts
from pipeline.make.result import StageClock, UnitResult
from pipeline.make.rows import Draft, failed_row, filtered_row, numbers_json
from pipeline.make.screen import image_reason, label_reason, mean_confidence, pixel_std
from schemas.errors import RunFailedError
from storage.records.weights import expect_fits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from perception.diffusion.backbone import DiffusionBackbone
    from perception.methods.protocol import DensePredictor
    from pipeline.make.history import UnitHistory
    from pipeline.make.label import LabelMaps
    from schemas.config import RunConfig
    from schemas.manifest import ManifestRow
    from schemas.unit import Unit
    from schemas.weights import WeightsManifest
    from sources.protocol import LabelledSource
    from storage.files.stores import RunStore

Result = TypeVar("Result")


class Generator:
    """Makes units: synthesize, label, screen, pack, commit.

    Attributes:
        drain: Asked between two batches whether the unit can still be done.

    Args:
        config: The run's configuration.
        store: The run.
        source: Where the real images come from.
        backbone: The frozen diffusion model.
        method: Takes the creation weights; used by nobody else meanwhile.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        store: RunStore,
        source: LabelledSource,
        backbone: DiffusionBackbone,
        method: DensePredictor,
    ) -> None:
        self._config = config
        self._store = store
        self._backbone = backbone
        self._method = method.eval().requires_grad_(requires_grad=False)
        self._keys_hash = keys_digest(method)
        self._weights: WeightsManifest | None = None
        self.drain = Drain()
        self._images = ImageMaker(config, store=store, source=source, backbone=backbone)

    @property
    def version(self) -> int | None:
        """Version of the weights that the next unit is labelled with; None before the first."""
        return None if self._weights is None else self._weights.version

    def take_weights(self, manifest: WeightsManifest, data: bytes) -> None:
        """Take published creation weights; all of them or, on an error, none.

        Args:
            manifest: What the version says about itself.
            data: Content of its safetensors file, checked by whoever read it from storage.

        Raises:
            WeightsMismatchError: If they belong to another backbone or method.
        """
        expect_fits(manifest, base_model_hash=self._backbone.model_id, keys_hash=self._keys_hash)
        load_state_bytes(self._method, data)
        self._weights = manifest

    def generate(self, unit: Unit, attempt: str, history: UnitHistory | None = None) -> UnitResult:
        """Make a unit with the weights that were taken last, and commit it.

        Args:
            unit: What to make.
            attempt: Unique name of this attempt.
            history: What earlier attempts at the unit left; None if there were none.

        Returns:
            What became of it. Samples that fail or are screened out are rows, not errors.

        Raises:
            RunFailedError: If no weights were taken yet.
            DamagedShardError: If a shard of the source or of the parent unit is damaged.
            UnitGivenBackError: If :attr:`drain` says that the unit would not be done in time;
                nothing of it was committed, images made so far are stored for the next attempt.
        """
        weights = self._weights
        if weights is None:
            raise RunFailedError("a generator has no creation weights; publish a version first")
        self.drain.begin(total=unit.num_samples)
        care = Care(self._store, unit, attempt, history)
        clock = StageClock()
        with clock.stage("images"):
            images = self._make_images(unit, attempt, care)
            care.working_on([])
            items = _through(images, self._screen_images)
        with clock.stage("labels"):
            items = _through(items, lambda drafts: self._label(unit, drafts, care))
            care.working_on([])
            items = _through(items, self._screen_labels)
        with clock.stage("encode"):
            share_s = clock.total() / max(len(items), 1)
            stamped = [_stamped(item, weights, share_s) for item in items]
            encoded = _through(stamped, lambda drafts: _encode(drafts, care))
            care.working_on([])
        result = UnitResult(
            unit_id=unit.unit_id,
            attempt=attempt,
            creation_version=weights.version,
            creation_step=weights.step,
            counts={},
            reasons={},
            seconds={**clock.seconds, "all": clock.total()},
            taken_over=sum(isinstance(item, Draft) and item.is_taken_over for item in images),
            worker=f"{platform.node()}:{os.getpid()}",
        )
        committed = commit_samples(self._store, unit, encoded, result)
        self.drain.finish(total=unit.num_samples)
        return committed

    def _make_images(self, unit: Unit, attempt: str, care: Care) -> list[Draft | ManifestRow]:
        if unit.kind == "relabel":
            stored = stored_drafts(self._store, unit, attempt=attempt)
            return _through(stored, lambda drafts: [_spared(draft, care) for draft in drafts])
        return self._images.make(
            unit, attempt=attempt, before_batch=self.drain.before_batch, care=care
        )

    def _screen_images(self, drafts: Sequence[Draft]) -> list[Draft | ManifestRow]:
        limits = self._config.screening
        return [_screened_image(draft, image_reason(draft.image, limits)) for draft in drafts]

    def _label(self, unit: Unit, drafts: Sequence[Draft], care: Care) -> list[Draft | ManifestRow]:
        def label(batch: Sequence[Draft]) -> list[LabelMaps]:
            care.working_on([draft.row.key for draft in batch])
            return label_images(
                self._backbone,
                self._method,
                [draft.image for draft in batch],
                seeds=[label_seed(unit.unit_id, draft.row.key) for draft in batch],
                settings=self._config.labelling,
            )

        # Labels of new images take little time against the images, which must not be lost now.
        before_batch = self.drain.before_batch if unit.kind == "relabel" else None
        batch_size = care.batch_size(self._config.creator.batch_size)
        found = map_isolated(drafts, label, batch_size=batch_size, before_batch=before_batch)
        return [_labelled(draft, maps) for draft, maps in zip(drafts, found, strict=True)]

    def _screen_labels(self, drafts: Sequence[Draft]) -> list[Draft | ManifestRow]:
        limits = self._config.screening
        return [
            _screened_labels(draft, label_reason(draft.labels, draft.confidence, limits))
            for draft in drafts
        ]


def _through(
    items: Sequence[Draft | ManifestRow],
    stage: Callable[[Sequence[Draft]], Sequence[Result | ManifestRow]],
) -> list[Result | ManifestRow]:
    """Send the drafts through a stage; rows of samples that fell out before keep their places."""
    results = iter(stage([item for item in items if isinstance(item, Draft)]))
    return [next(results) if isinstance(item, Draft) else item for item in items]


def _labelled(draft: Draft, maps: LabelMaps | Failure) -> Draft | ManifestRow:
    if isinstance(maps, Failure):
        return failed_row(draft.row, maps)
    labels, confidence = maps
    return replace(draft, labels=labels, confidence=confidence)


def _screened_image(draft: Draft, reason: str | None) -> Draft | ManifestRow:
    row = replace(draft.row, quality=numbers_json({"pixel_std": pixel_std(draft.image)}))
    return filtered_row(row, reason) if reason else replace(draft, row=row)


def _screened_labels(draft: Draft, reason: str | None) -> Draft | ManifestRow:
    means = mean_confidence(draft.confidence)
    stats = numbers_json({f"{task}_confidence": mean for task, mean in means.items()})
    row = replace(draft.row, label_stats=stats)
    return filtered_row(row, reason) if reason else replace(draft, row=row)


def _stamped(
    item: Draft | ManifestRow, weights: WeightsManifest, seconds: float
) -> Draft | ManifestRow:
    """Note on a sample's row what labelled it, where, and its share of the time."""
    row = replace(
        item.row if isinstance(item, Draft) else item,
        creation_version=weights.version,
        creation_step=weights.step,
        head_hash=weights.sha256,
        node_id=platform.node(),
        gen_seconds=round(seconds, 4),
    )
    return replace(item, row=row) if isinstance(item, Draft) else row


def _spared(draft: Draft, care: Care) -> Draft | ManifestRow:
    """Leave a sample alone that has killed processes."""
    failure = care.killers.get(draft.row.key)
    return failed_row(draft.row, failure) if failure else draft


def _encode(drafts: Sequence[Draft], care: Care) -> list[EncodedSample | ManifestRow]:
    def encode(batch: Sequence[Draft]) -> list[EncodedSample]:
        care.working_on([draft.row.key for draft in batch])
        return [encode_draft(draft) for draft in batch]

    found = map_isolated(drafts, encode, batch_size=1)
    return [
        failed_row(draft.row, made) if isinstance(made, Failure) else made
        for draft, made in zip(drafts, found, strict=True)
    ]
