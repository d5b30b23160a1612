"""Score trained weights on a split of a source: features once, any number of weights on them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from evaluation.scores import DEFAULT_OPTIONS, ScoreBoard, Scores
from perception.predict import generators_of, observe
from perception.seeding import sample_seed
from perception.state_file import load_state_bytes
from schemas.errors import SourceError
from schemas.sample import IGNORE_ID, TASK_KINDS, Sample, Task
from sources.batches import Batch, collate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from perception.diffusion.backbone import DiffusionBackbone
    from perception.diffusion.features import FeaturePyramid
    from perception.methods.protocol import DensePredictor
    from schemas.config_metrics import MetricsSection
    from sources.protocol import LabelledSource, Split

    OnFound = Callable[[Batch, Mapping[str, Mapping[Task, Tensor]]], None]
    """Is given a batch and name of weights to task to what they predict for it."""

logger = logging.getLogger(__name__)


def count_states(
    backbone: DiffusionBackbone,
    make_method: Callable[[], DensePredictor],
    states: Mapping[str, bytes],
    source: LabelledSource,
    split: Split,
    scoring: Scoring,
    *,
    on_done: Callable[[int, int], None] | None = None,
    on_found: OnFound | None = None,
) -> dict[str, ScoreBoard]:
    """Score several sets of weights on the same images, features and noise.

    The noise of an image depends on the seed and its key alone, so a score does not depend on
    the batch size.

    Args:
        make_method: Makes an untrained method; called once for each set of weights.
        states: Name to safetensors bytes of a method.
        on_done: Is told how many images are scored, and of how many, after each batch.
        on_found: Is given each batch with what was predicted for it.

    Returns:
        Name to what was counted.

    Raises:
        SourceError: If the split has no readable image.
        WeightsMismatchError: If weights do not fit the method.
    """
    methods = {name: make_method() for name in states}
    for name, method in methods.items():
        load_state_bytes(method, states[name])
    boards = {name: scoring.board() for name in states}
    done, total = 0, sum(len(shard.keys) for shard in source.shards(split))
    for batch in iterate_batches(source, split, scoring):
        predicted: dict[str, dict[Task, Tensor]] = {}
        seeds = [sample_seed(f"{scoring.seed}", key, 0) for key in batch.keys]
        shared: FeaturePyramid | None = None
        for name, method in methods.items():
            if shared is None or not method.shares_features:
                generators = generators_of(seeds)
                shared = observe(backbone, method, batch.images, generators=generators)
            found = method.predict(shared, batch.image_size).labels
            predicted[name] = {task: found[task].cpu() for task in scoring.tasks}
            boards[name].update(predicted[name], batch.labels)
        if on_found is not None:
            on_found(batch, predicted)
        done += len(batch.keys)
        if on_done is not None:
            on_done(done, total)
    return boards


def score_constant(source: LabelledSource, split: Split, scoring: Scoring) -> Scores:
    """Score the best answer that does not look at the image, as a floor.

    It is learnt on the train split: the mean normal, the median depth, the most frequent class, the
    mean probability.

    Raises:
        SourceError: If a split has no readable image, or no label of a task.
    """
    train = list(iterate_batches(source, "train", scoring))
    constants = {task: _constant(task, [b.labels[task] for b in train]) for task in scoring.tasks}
    board = scoring.board()
    for batch in iterate_batches(source, split, scoring):
        answers = {task: answer.expand_as(batch.labels[task]) for task, answer in constants.items()}
        board.update(answers, batch.labels)
    return board.compute()


def iterate_batches(source: LabelledSource, split: Split, scoring: Scoring) -> Iterator[Batch]:
    """Read a split once, in order; samples that cannot be read are left out and logged.

    Yields:
        Batches of ``scoring.batch_size``, the last one as large as it comes.

    Raises:
        SourceError: If not one sample can be read.
    """
    samples = _readable(source, split)
    is_empty = True
    while together := list(islice(samples, scoring.batch_size)):
        is_empty = False
        yield collate(together, scoring.tasks)
    if is_empty:
        raise SourceError(
            f"source {source.name}: wanted images of split {split} to score, found none; "
            f"set source.num_{split} above 0, or describe such a split"
        )


def _readable(source: LabelledSource, split: Split) -> Iterator[Sample]:
    for shard in source.shards(split):
        for found in source.read(shard):
            if isinstance(found, Sample):
                yield found
            else:
                logger.warning("%s is left out: %s: %s", found.uri, found.reason, found.detail)


def _constant(task: Task, labels: list[Tensor]) -> Tensor:
    label = torch.cat(labels)
    if task == "normals":
        return functional.normalize(label.sum(dim=(0, 2, 3)), dim=0)[None, :, None, None]
    if TASK_KINDS[task] == "classes":
        counted = _expect_some(task, label[label != IGNORE_ID])
        return counted.mode().values[None, None, None]
    if task == "depth":
        return _expect_some(task, label[label > 0]).median()[None, None, None, None]
    return _expect_some(task, label[label >= 0]).mean()[None, None, None, None]


def _expect_some(task: Task, counted: Tensor) -> Tensor:
    if not len(counted):
        raise SourceError(
            f"{task}: wanted a label that counts in the train split, found none; "
            "leave the task out, or take a source that has it"
        )
    return counted


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """What is scored, and how.

    Attributes:
        tasks: Tasks that are predicted and labelled.
        num_classes: Classes of semseg.
        batch_size: Images that go through the backbone together.
        seed: Of the noise on the latents.
        options: Protocols of the metrics.
    """

    tasks: tuple[Task, ...]
    num_classes: int = 0
    batch_size: int = 32
    seed: int = 0
    options: MetricsSection = DEFAULT_OPTIONS

    def board(self) -> ScoreBoard:
        """An empty board for these tasks."""
        return ScoreBoard(self.tasks, num_classes=self.num_classes, options=self.options)
