"""A quick score of weights on validation images, of which what never changes is computed once."""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice, zip_longest
from typing import TYPE_CHECKING, Any

from evaluation.scores import HEADLINE_METRICS, ScoreBoard, Scores
from perception.diffusion.latents import encode_moments
from perception.predict import observe
from perception.seeding import sample_generator
from schemas.config_metrics import MetricsSection
from schemas.sample import Sample
from sources.batches import Batch, collate
from sources.parts import parts_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from perception.diffusion.backbone import DiffusionBackbone
    from perception.diffusion.features import FeaturePyramid
    from perception.diffusion.latents import LatentMoments
    from perception.methods.protocol import DensePredictor
    from schemas.sample import Task
    from sources.protocol import LabelledSource

_DEFAULT_CACHE_BYTES = 256 * 2**20
_DEFAULT_MAX_IMAGES = 32
_SEED = 0
_NOISES = 4
"""Times that a creator is shown each image: its loss depends on the noise more than on the rest."""

_QUICK = MetricsSection(boundary_thresholds=9)
"""Few thresholds: a boundary score of 101 would take longer than the forward pass."""


def headline(scores: Scores) -> dict[str, float]:
    """Reduce scores to one number for each task: task_metric → value."""
    return {
        f"{task}_{HEADLINE_METRICS[task].name}": values[HEADLINE_METRICS[task].name]
        for task, values in scores.items()
    }


class Validator:
    """Scores weights on the validation split; all of them see the same features.

    It serves to watch a run, so it looks at a few images only, no more than their features fit into
    ``cache_bytes``: a score costs a forward pass of the method. The first call is slower.

    Args:
        source: Its validation split is used; an empty one gives empty scores.
        max_images: Images that are scored, at most.
    """

    def __init__(
        self,
        source: LabelledSource,
        backbone: DiffusionBackbone,
        *,
        tasks: Sequence[Task],
        num_classes: int = 0,
        batch_size: int = 16,
        max_images: int = _DEFAULT_MAX_IMAGES,
        cache_bytes: int = _DEFAULT_CACHE_BYTES,
    ) -> None:
        self._source = source
        self._backbone = backbone
        self._tasks = tuple(tasks)
        self._num_classes = num_classes
        self._batch_size = batch_size
        self._max_images = max_images
        self._cache_bytes = cache_bytes
        self._cached: list[tuple[Batch, FeaturePyramid]] | None = None

    @property
    def num_images(self) -> int:
        """Images that are scored; 0 before the first call."""
        return sum(len(batch) for batch, _ in self._cached or [])

    def score(self, method: DensePredictor) -> Scores:
        """Score a method; empty if there is no validation image."""
        if self._cached is None:
            self._cached = self._load(method)
        if not self._cached:
            return {}
        board = ScoreBoard(self._tasks, num_classes=self._num_classes, options=_QUICK)
        for index, (batch, cached) in enumerate(self._cached):
            pyramid = cached if method.shares_features else self._observe(method, batch, index)
            predictions = method.predict(pyramid, batch.image_size)
            found = {task: label.cpu() for task, label in predictions.labels.items()}
            board.update(found, batch.labels)
        return board.compute()

    def figures(self, method: Any) -> dict[str, float]:
        """Score a method; a number for each task, as :func:`headline` names it."""
        return headline(self.score(method))

    def _load(self, method: DensePredictor) -> list[tuple[Batch, FeaturePyramid]]:
        cached: list[tuple[Batch, FeaturePyramid]] = []
        used_bytes = 0
        samples = islice(validation_samples(self._source), self._max_images)
        while together := list(islice(samples, self._batch_size)):
            batch = collate(together, self._tasks)
            pyramid = self._observe(method, batch, len(cached))
            used_bytes += sum(each.nbytes for each in chain.from_iterable(pyramid.maps))
            if cached and used_bytes > self._cache_bytes:
                break
            cached.append((batch, pyramid))
        return cached

    def _observe(self, method: DensePredictor, batch: Batch, index: int) -> FeaturePyramid:
        """Take features whose noise depends on the batch's place alone."""
        noise = sample_generator(_SEED + index)
        return observe(self._backbone, method, batch.images, generators=noise)


class CreatorValidator:
    """Shows weights of a creator the same validation images under the same noises each time.

    Args:
        source: Its validation split is used; an empty one gives no figures.
        captions: Key to text, where the run has one; the other images have the empty prompt.
        max_images: Images that are shown, at most.
    """

    def __init__(
        self,
        source: LabelledSource,
        backbone: DiffusionBackbone,
        *,
        tasks: Sequence[Task],
        captions: Mapping[str, str],
        batch_size: int = 16,
        max_images: int = _DEFAULT_MAX_IMAGES,
    ) -> None:
        self._source = source
        self._backbone = backbone
        self._tasks = tuple(tasks)
        self._captions = captions
        self._batch_size = batch_size
        self._max_images = max_images
        self._cached: list[tuple[Batch, LatentMoments]] | None = None

    def figures(self, creator: Any) -> dict[str, float]:
        """Mean over images and noises of what :meth:`CreatorNetwork.held_out` gives."""
        if self._cached is None:
            self._cached = list(self._load())
        sums: Counter[str] = Counter()
        shown = 0
        for seed in range(_SEED, _SEED + _NOISES):
            for index, (batch, moments) in enumerate(self._cached):
                found = creator.held_out(
                    self._backbone,
                    moments,
                    labels=batch.to(self._backbone.device).labels,
                    captions=batch.captions,
                    seed=seed + _NOISES * index,
                )
                sums.update({name: value * len(batch) for name, value in found.items()})
                shown += len(batch)
        return {name: total / shown for name, total in sums.items()}

    def _load(self) -> Iterator[tuple[Batch, LatentMoments]]:
        samples = islice(validation_samples(self._source), self._max_images)
        while together := list(islice(samples, self._batch_size)):
            captions = [self._captions.get(sample.key, "") for sample in together]
            batch = collate(together, self._tasks, captions=captions)
            yield batch, encode_moments(self._backbone, batch.images)


def validation_samples(source: LabelledSource) -> Iterator[Sample]:
    """In their order; those of the sources of a mix in turn, for each labels other tasks."""
    parts = [_of_part(source, part.prefix) for part in parts_of(source)]
    for together in zip_longest(*parts):
        yield from (sample for sample in together if sample is not None)


def _of_part(source: LabelledSource, prefix: str) -> Iterator[Sample]:
    for shard in source.shards("validation"):
        if any(key.startswith(prefix) for key in shard.keys):
            for found in source.read(shard):
                if isinstance(found, Sample):
                    yield found
