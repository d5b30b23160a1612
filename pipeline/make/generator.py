"""A generator: takes weights, makes units, commits them."""

from __future__ import annotations

import platform
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from perception.state_file import keys_digest, load_state_bytes
from pipeline.make.commit import commit_samples, encode
from pipeline.make.drain import Drain
from pipeline.make.images import ImageMaker, decode_stored, stored_images
from pipeline.make.label import label_images, label_seed
from pipeline.make.origin import Opinions, agree_within, choose_labels
from pipeline.make.screen import screen_image, screen_labels
from pipeline.make.steps import Steps
from schemas.errors import RunFailedError
from schemas.sample import CREATOR_MEMBERS
from storage.records.weights import expect_fits
from storage.samples.codecs import decode_label

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from perception.diffusion.backbone import DiffusionBackbone
    from perception.methods.protocol import DensePredictor
    from pipeline.make.attempt import Attempt
    from pipeline.make.creators import LearnedCreator
    from pipeline.make.label import LabelMaps
    from pipeline.make.origin import Chosen
    from pipeline.make.rows import Draft
    from schemas.config import RunConfig
    from schemas.sample import LabelOrigin, Task
    from schemas.unit import Unit
    from schemas.weights import Series, WeightsManifest
    from sources.protocol import LabelledSource
    from storage.files.stores import RunStore
    from storage.manifests.unit_outcome import UnitOutcome


class Generator:
    """Makes units: synthesize, label, screen, pack, commit.

    Attributes:
        drain: Asked between two batches whether the unit can still be done.

    Args:
        method: Takes the creation weights; used by nobody else meanwhile.
        creator: Makes the images, and takes weights of its own; None: the creator of the
            configuration, which does not learn.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        store: RunStore,
        source: LabelledSource,
        backbone: DiffusionBackbone,
        method: DensePredictor,
        creator: LearnedCreator | None = None,
    ) -> None:
        self._config = config
        self._store = store
        self._backbone = backbone
        self._method = method.eval().requires_grad_(requires_grad=False)
        self._modules: dict[Series, nn.Module] = {"creation": self._method}
        if creator is not None:
            self._modules["creator"] = creator.network.eval().requires_grad_(requires_grad=False)
        self._keys_hashes = {series: keys_digest(each) for series, each in self._modules.items()}
        self._weights: dict[Series, WeightsManifest] = {}
        self.drain = Drain()
        self._images = ImageMaker(
            config, store=store, source=source, backbone=backbone, learned=creator
        )

    @property
    def version(self) -> int | None:
        """Version of the weights that the next unit is labelled with; None before the first."""
        return self.versions["creation"]

    @property
    def versions(self) -> dict[Series, int | None]:
        """Each series that is taken, and the version in use; None before the first."""
        held = {series: self._weights.get(series) for series in self._modules}
        return {series: None if each is None else each.version for series, each in held.items()}

    def series_of(self, unit: Unit) -> list[Series]:
        """Series whose weights a unit is made with: none make the images of a ``relabel`` unit."""
        return [each for each in self._modules if each == "creation" or unit.kind == "synthesize"]

    def take_weights(
        self, manifest: WeightsManifest, data: bytes, series: Series = "creation"
    ) -> None:
        """Take published weights; all of them or, on an error, none.

        Args:
            data: Content of its safetensors file, checked by whoever read it from storage.
            series: One of :attr:`versions`.

        Raises:
            WeightsMismatchError: If they belong to another backbone, method or creator.
        """
        keys_hash = self._keys_hashes[series]
        expect_fits(manifest, base_model_hash=self._backbone.model_id, keys_hash=keys_hash)
        load_state_bytes(self._modules[series], data)
        self._weights[series] = manifest

    def generate(self, unit: Unit, attempt: Attempt) -> UnitOutcome:
        """Make a unit with the weights that were taken last, and commit it.

        Args:
            attempt: This attempt, and what earlier ones left.

        Returns:
            What became of it. Samples that fail or are screened out are rows, not errors.

        Raises:
            RunFailedError: If weights that the unit is made with were not taken yet.
            SourceError: If the source has no such shard.
            DamagedShardError: If a shard that is read is damaged.
            UnitGivenBackError: If :attr:`drain` says that the unit would not be done in time;
                nothing of it was committed, images made so far are stored for the next attempt.
        """
        weights = {series: self._taken(series) for series in self.series_of(unit)}
        self.drain.begin(total=unit.num_samples)
        started = time.monotonic()
        steps, limits = Steps(self._store, unit, attempt), self._config.screening
        seconds: dict[str, float] = {}
        with _timed(seconds, "images"):
            drafts = self._make_images(unit, attempt, steps, weights.get("creator"))
            drafts = [screen_image(draft, limits) for draft in drafts]
        with _timed(seconds, "labels"):
            drafts = steps.run(
                drafts,
                self._label,
                batch_size=self._config.labelling.batch_size or self._config.creator.batch_size,
                # Labels of new images take little time against the images, which must not be lost.
                before_batch=self.drain.before_batch if unit.kind == "relabel" else None,
            )
            drafts = [screen_labels(draft, limits) for draft in drafts]
        with _timed(seconds, "encode"):
            share_s = (time.monotonic() - started) / max(len(drafts), 1)
            drafts = [_stamped(draft, weights["creation"], share_s) for draft in drafts]
            drafts = steps.run(drafts, encode)
        seconds["all"] = time.monotonic() - started
        outcome = commit_samples(self._store, unit, drafts, attempt, seconds=seconds)
        self.drain.finish(total=unit.num_samples)
        return outcome

    def _taken(self, series: Series) -> WeightsManifest:
        if series not in self._weights:
            raise RunFailedError(f"a generator has no {series} weights; publish a version first")
        return self._weights[series]

    def _make_images(
        self, unit: Unit, attempt: Attempt, steps: Steps, weights: WeightsManifest | None
    ) -> list[Draft]:
        if unit.kind == "relabel":
            stored = stored_images(self._store, unit, attempt=attempt.name)
            return steps.run(steps.spare(stored), decode_stored)
        return self._images.make(
            unit,
            attempt,
            steps,
            before_batch=self.drain.before_batch,
            weights=weights,
        )

    def _label(self, drafts: Sequence[Draft]) -> list[Draft]:
        found = label_images(
            self._backbone,
            self._method,
            [draft.image for draft in drafts],
            seeds=[label_seed(draft.row.unit_id, draft.row.key) for draft in drafts],
            settings=self._config.labelling,
        )
        return [
            _with_labels(draft, self._choose(draft, maps), self._config.labelling.origin)
            for draft, maps in zip(drafts, found, strict=True)
        ]

    def _choose(self, draft: Draft, found: LabelMaps) -> Chosen:
        labels, reliability = found
        settings, creator, made = self._config.labelling, self._config.creator, _made_maps(draft)
        is_given = creator.makes_maps and creator.starts_from == "labels"
        opinions = Opinions(
            predicted=labels,
            reliability=reliability,
            made=made,
            given=made if is_given else {},
        )
        return choose_labels(settings.origin, opinions, agree=agree_within(settings))


def _made_maps(draft: Draft) -> dict[Task, NDArray[Any]]:
    """What the creator made with a sample's image, as it is stored."""
    members = draft.members
    return {
        task: decode_label(members[name], task)
        for task, name in CREATOR_MEMBERS.items()
        if name in members
    }


def _with_labels(draft: Draft, chosen: Chosen, origin: LabelOrigin) -> Draft:
    """Add chosen labels to those that the creator knew, which stay as they are."""
    return replace(
        draft,
        row=replace(draft.row, label_origin=origin),
        labels={**chosen.labels, **draft.labels},
        reliability={t: each for t, each in chosen.reliability.items() if t not in draft.labels},
        agreement=chosen.agreement,
    )


def _stamped(draft: Draft, weights: WeightsManifest, seconds: float) -> Draft:
    """Note on a sample's row what labelled it, where, and its share of the time."""
    row = replace(
        draft.row,
        creation_version=weights.version,
        creation_step=weights.step,
        head_hash=weights.sha256,
        node_id=platform.node(),
        gen_seconds=round(seconds, 4),
    )
    return replace(draft, row=row)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - started
