"""An image and its mirror image agree on one label map."""

from __future__ import annotations

import torch
from torch.nn import functional

from perception.methods.protocol import Predictions
from perception.mirror import average_with_mirror, mirror_label


def predictions(*, seed: int = 0) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    normals = functional.normalize(torch.randn(2, 3, 4, 6, generator=generator), dim=1)
    return Predictions(
        labels={
            "normals": normals,
            "depth": torch.rand(2, 1, 4, 6, generator=generator) + 1,
            "semseg": torch.randint(0, 5, (2, 4, 6), generator=generator),
        },
        confidence={
            task: torch.rand(2, 1, 4, 6, generator=generator)
            for task in ("normals", "depth", "semseg")
        },
    )


def mirrored(found: Predictions) -> Predictions:
    return Predictions(
        labels={task: mirror_label(label, task) for task, label in found.labels.items()},
        confidence={task: sure.flip(-1) for task, sure in found.confidence.items()},
    )


def test_mirroring_a_label_twice_gives_it_back() -> None:
    for task, label in predictions().labels.items():
        assert torch.equal(mirror_label(mirror_label(label, task), task), label)


def test_a_wall_that_faces_left_faces_right_in_the_mirror() -> None:
    facing_left = torch.tensor([-1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert torch.equal(mirror_label(facing_left, "normals"), -facing_left)


def test_a_predictor_that_agrees_with_its_mirror_keeps_its_predictions() -> None:
    found = predictions()
    averaged = average_with_mirror(found, mirrored(found))
    for task in found.labels:
        torch.testing.assert_close(averaged.labels[task], found.labels[task])
        torch.testing.assert_close(averaged.confidence[task], found.confidence[task])


def test_averaged_normals_are_unit_and_the_surer_class_wins() -> None:
    found, other = predictions(), predictions(seed=1)
    averaged = average_with_mirror(found, mirrored(other))
    lengths = averaged.labels["normals"].norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    is_ours = (found.confidence["semseg"] >= other.confidence["semseg"]).squeeze(1)
    chosen = torch.where(is_ours, found.labels["semseg"], other.labels["semseg"])
    assert torch.equal(averaged.labels["semseg"], chosen)
