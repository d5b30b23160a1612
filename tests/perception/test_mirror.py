"""An image and its mirror image agree on one label map."""

from __future__ import annotations

import torch

from perception.methods.protocol import Predictions
from perception.predict import average_with_mirror, mirror_label
from schemas.sample import INVALID_VALUES, TASK_KINDS, TASKS
from sources.batches import collate
from tests.kit.random_labels import random_sample


def predictions(*, seed: int = 0) -> Predictions:
    labels = collate([random_sample(seed), random_sample(seed + 10)], TASKS).labels
    generator = torch.Generator().manual_seed(seed)
    reliability = {task: torch.rand(2, 1, 6, 8, generator=generator) for task in TASKS}
    for task in ("saliency", "boundaries"):
        probability = labels[task] = labels[task].clamp(min=0)
        reliability[task] = torch.maximum(probability, 1 - probability)
    return Predictions(labels=labels, reliability=reliability)


def mirrored(found: Predictions) -> Predictions:
    return Predictions(
        labels={task: mirror_label(label, task) for task, label in found.labels.items()},
        reliability={task: sure.flip(-1) for task, sure in found.reliability.items()},
    )


def test_mirroring_a_label_twice_gives_it_back() -> None:
    for task, label in predictions().labels.items():
        assert torch.equal(mirror_label(mirror_label(label, task), task), label)


def test_a_mirrored_label_is_invalid_where_it_was_in_the_mirror() -> None:
    for task, label in collate([random_sample(0)], TASKS).labels.items():
        nothing = INVALID_VALUES[TASK_KINDS[task]]
        found = mirror_label(label, task) == nothing
        assert found.any()
        assert torch.equal(found, (label == nothing).flip(-1))


def test_a_wall_that_faces_left_faces_right_in_the_mirror() -> None:
    facing_left = torch.tensor([-1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert torch.equal(mirror_label(facing_left, "normals"), -facing_left)


def test_a_predictor_that_agrees_with_its_mirror_keeps_its_predictions() -> None:
    found = predictions()
    averaged = average_with_mirror(found, mirrored(found))
    for task in found.labels:
        torch.testing.assert_close(averaged.labels[task], found.labels[task])
        torch.testing.assert_close(averaged.reliability[task], found.reliability[task])


def test_averaged_normals_are_unit_and_the_surer_class_wins() -> None:
    found, other = predictions(), predictions(seed=1)
    averaged = average_with_mirror(found, mirrored(other))
    lengths = averaged.labels["normals"].norm(dim=1)
    known = ((found.labels["normals"] + other.labels["normals"]) != 0).any(dim=1)
    torch.testing.assert_close(lengths[known], torch.ones_like(lengths[known]))
    for task in ("semseg", "human_parts"):
        is_ours = (found.reliability[task] >= other.reliability[task]).squeeze(1)
        chosen = torch.where(is_ours, found.labels[task], other.labels[task])
        assert torch.equal(averaged.labels[task], chosen)


def test_averaged_probabilities_are_as_sure_as_their_mean() -> None:
    found, other = predictions(), predictions(seed=1)
    averaged = average_with_mirror(found, mirrored(other))
    for task in ("saliency", "boundaries"):
        mean = (found.labels[task] + other.labels[task]) / 2
        torch.testing.assert_close(averaged.labels[task], mean)
        torch.testing.assert_close(averaged.reliability[task], 0.5 + (mean - 0.5).abs())
