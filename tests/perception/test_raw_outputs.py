"""Raw outputs of heads as predictions."""

from __future__ import annotations

import pytest
import torch

from perception.methods.raw_outputs import (
    class_prediction,
    multi_task_predictions,
    probability_prediction,
)
from schemas.sample import TASKS

RAW = {
    "normals": torch.tensor([0.0, 3.0, 4.0]).view(1, 3, 1, 1).expand(2, 3, 4, 6),
    "depth": torch.full((2, 1, 4, 6), 2.5),
    "semseg": torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(0)),
    "human_parts": torch.randn(2, 7, 4, 6, generator=torch.Generator().manual_seed(1)),
    "saliency": torch.randn(2, 1, 4, 6, generator=torch.Generator().manual_seed(2)),
    "boundaries": torch.randn(2, 1, 4, 6, generator=torch.Generator().manual_seed(3)),
}


def test_every_task_is_encoded_as_its_labels_are() -> None:
    found = multi_task_predictions(RAW)
    shapes = {task: tuple(label.shape) for task, label in found.labels.items()}
    assert shapes == {
        "normals": (2, 3, 4, 6),
        "depth": (2, 1, 4, 6),
        "semseg": (2, 4, 6),
        "human_parts": (2, 4, 6),
        "saliency": (2, 1, 4, 6),
        "boundaries": (2, 1, 4, 6),
    }
    assert found.labels["semseg"].dtype == found.labels["human_parts"].dtype == torch.int64
    for task in TASKS:
        assert tuple(found.reliability[task].shape) == (2, 1, 4, 6)
        assert found.reliability[task].dtype == torch.float32


def test_normals_become_unit_and_depth_stays() -> None:
    found = multi_task_predictions(RAW)
    torch.testing.assert_close(found.labels["normals"][0, :, 0, 0], torch.tensor([0.0, 0.6, 0.8]))
    assert torch.equal(found.labels["depth"], RAW["depth"])
    assert found.reliability["normals"].unique().tolist() == [0.0]
    assert found.reliability["depth"].unique().tolist() == [1.0]


def test_the_confidence_of_a_class_is_its_probability() -> None:
    logits = torch.tensor([0.0, 2.0, 1.0]).log1p().view(1, 3, 1, 1)
    ids, reliability = class_prediction(logits)
    assert ids.item() == 1
    assert reliability.item() == pytest.approx(3 / 6)


def test_a_probability_is_as_sure_as_it_is_far_from_a_half() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0]).view(3, 1, 1, 1)
    probability, reliability = probability_prediction(logits)
    wanted = 1 / (1 + torch.exp(torch.tensor([0.0, -1.0, 1.0])))
    torch.testing.assert_close(probability.flatten(), wanted)
    torch.testing.assert_close(reliability.flatten(), torch.maximum(wanted, 1 - wanted))


def test_half_precision_outputs_give_single_precision_predictions() -> None:
    found = multi_task_predictions({task: raw.bfloat16() for task, raw in RAW.items()})
    assert all(label.dtype in (torch.float32, torch.int64) for label in found.labels.values())
