"""Score the weights that a run directory holds."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from evaluation.predict_source import Scoring, count_states, score_constant
from perception.build import make_method, open_backbone
from schemas.errors import ConfigError, WeightsMismatchError
from schemas.stages import STAGES_OF_RESULT
from sources.class_names import class_names_of, name_of_class
from sources.open import open_run_source
from storage.records.weights import latest_version, list_versions, read_manifest, read_weights
from trainers.checkpoint import CREATION_FILE, EXPLOITATION_FILE
from trainers.final import read_final, read_final_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evaluation.predict_source import OnFound
    from evaluation.scores import ScoreBoard, Scores
    from perception.diffusion.backbone import DiffusionBackbone
    from runs.counting import OnDone
    from schemas.config import RunConfig
    from schemas.sample import Task
    from sources.protocol import Split
    from storage.files.stores import RunStore


def score_run(config: RunConfig, store: RunStore, *, split: Split = "test") -> dict[str, Any]:
    """Score the final creation weights of every stage that has ended.

    Returns:
        ``warm_up``, ``real_only_control`` and ``self_improved``, as far as there are such
        weights, to task to metric to value.
    """
    return dict(score_weights(config, store, final_states(store), split=split))


def score_weights(
    config: RunConfig, store: RunStore, states: Mapping[str, bytes], *, split: Split = "test"
) -> dict[str, Scores]:
    """The scores of :func:`count_weights`: name to task to metric to value."""
    boards = count_weights(config, store, states, split=split)
    return {name: board.compute() for name, board in boards.items()}


def class_scores(
    config: RunConfig, boards: Mapping[str, ScoreBoard]
) -> dict[str, dict[Task, dict[str, float | None]]]:
    """Intersection over union of each class: weights to task to class to value, as JSON values.

    A class is its id with its name, if that is known; None stands for a class that neither occurs
    nor is predicted.
    """
    names = class_names_of(config)
    return {
        row: {
            task: {
                name_of_class(index, names.get(task, ())): None if math.isnan(value) else value
                for index, value in enumerate(values)
            }
            for task, values in board.iou_per_class().items()
        }
        for row, board in boards.items()
    }


def count_weights(
    config: RunConfig,
    store: RunStore,
    states: Mapping[str, bytes],
    *,
    split: Split = "test",
    on_done: OnDone | None = None,
    on_found: OnFound | None = None,
) -> dict[str, ScoreBoard]:
    """Score sets of weights of a run's method.

    Args:
        states: Name to safetensors bytes.
        on_done: Is told how many images are scored, and of how many.
        on_found: Is given each batch with what was predicted for it.

    Returns:
        Name to what was counted.

    Raises:
        ConfigError: If the weights belong to another backbone, or do not fit the method that the
            configuration describes.
    """
    backbone = open_backbone(config)
    expect_same_backbone(config, store, backbone)
    source = open_run_source(config)
    make = partial(make_method, config, backbone)
    try:
        return count_states(
            backbone,
            make,
            states,
            source,
            split,
            _scoring(config),
            on_done=on_done,
            on_found=on_found,
        )
    except WeightsMismatchError as error:
        raise ConfigError(
            f"method or model: {error}; score a run with the method and model it was trained with"
        ) from error


def expect_same_backbone(config: RunConfig, store: RunStore, backbone: DiffusionBackbone) -> None:
    """Check that the run's weights were trained on the features of this backbone.

    Raises:
        ConfigError: If they were trained on another one: they would load, and score badly.
    """
    newest = latest_version(store)
    if newest is None:
        return
    wanted = read_manifest(store, newest).base_model_hash
    if wanted != backbone.model_id:
        raise ConfigError(
            f"model.diffusion = {config.model.diffusion}: its digest is {backbone.model_id}, but "
            f"the weights of {store.url} were trained on {wanted}; put that model back there, or "
            "name its folder with --set model.diffusion=…"
        )


def score_floor(config: RunConfig, *, split: Split = "test") -> Scores:
    """Score a constant answer on the run's source."""
    return score_constant(
        open_run_source(config),
        split,
        _scoring(config),
    )


def _scoring(config: RunConfig) -> Scoring:
    return Scoring(
        tasks=config.method.tasks,
        num_classes=config.method.num_classes,
        batch_size=config.evaluation.batch_size,
        seed=config.run.seed,
        options=config.evaluation.metrics,
    )


def select_states(store: RunStore, which: str) -> dict[str, bytes]:
    """Read the weights that ``--weights`` names.

    Args:
        which: ``final``: the creation weights at the end of each stage; ``all``: those, the
            exploitation weights and every published version; else the number of a version.

    Raises:
        ConfigError: If there are no such weights.
    """
    versions = list_versions(store)
    if which == "final":
        states = final_states(store)
    elif which == "all":
        states = final_states(store) | final_states(store, exploitation=True)
        states |= {f"v{version}": read_weights(store, version)[1] for version in versions}
    elif which.isdigit() and int(which) in versions:
        states = {f"v{which}": read_weights(store, int(which))[1]}
    else:
        states = {}
    if not states:
        raise ConfigError(
            f"--weights {which}: {store.url} has no such weights; wanted final (after a stage has "
            f"ended), all, or a published version, found versions {versions}"
        )
    return states


def final_states(store: RunStore, *, exploitation: bool = False) -> dict[str, bytes]:
    """Read the weights at the end of each stage that has ended, by row of results.json."""
    name, suffix = (EXPLOITATION_FILE, " θ_E") if exploitation else (CREATION_FILE, "")
    return {
        f"{row}{suffix}": read_final_weights(store, stages[-1], name)
        for row, stages in STAGES_OF_RESULT.items()
        if read_final(store, stages[-1]) is not None
    }
