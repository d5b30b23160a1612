"""Labels of synthetic images: unsure pixels stay unlabelled, mirror images are asked on demand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from perception.methods.bae import make
from perception.methods.protocol import DensePredictor, Predictions
from perception.methods.spec import method_spec
from pipeline.make.label import label_images, mask_unsure
from schemas.config_labelling import LabellingSection
from schemas.config_method import MethodSection
from schemas.sample import TASK_KINDS, TASKS
from sources.batches import collate
from storage.samples.codecs import decode_sample, encode_sample
from tests.kit.random_labels import random_sample
from tests.kit.tiny_models import tiny_backbone

SIZE = 64


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    backbone = tiny_backbone()
    method = make(method_spec(MethodSection(), backbone))
    return backbone, method


def label(parts, image, **settings):
    backbone, method = parts
    labels, reliability = label_images(
        backbone,
        method,
        [image],
        seeds=[0],
        settings=LabellingSection(**settings),
    )[0]
    return labels["normals"], reliability["normals"]


def test_unsure_pixels_carry_the_invalid_value_of_their_task() -> None:
    sure = np.array([[10.0, 50.0]], dtype=np.float32)
    normals = np.ones((1, 2, 3), dtype=np.float32)
    masked = mask_unsure(normals, sure, "normals", LabellingSection(max_pixel_error_deg=40))
    assert masked[0, 0].tolist() == [1, 1, 1]
    assert masked[0, 1].tolist() == [0, 0, 0]
    ids = np.array([[3, 4]], dtype=np.uint8)
    chance = np.array([[0.9, 0.2]], dtype=np.float32)
    limit = LabellingSection(min_pixel_confidence=0.5)
    for task in ("semseg", "human_parts"):
        assert mask_unsure(ids, chance, task, limit).tolist() == [[3, 255]]
    values = np.array([[1.0, 1.0]], dtype=np.float32)
    assert mask_unsure(values, chance, "depth", limit).tolist() == [[1, 0]]
    for task in ("saliency", "boundaries"):
        assert mask_unsure(values, chance, task, limit).tolist() == [[1, -1]]
    assert values.tolist() == [[1, 1]], "the input is left alone"


class Fixed(DensePredictor):
    """Predicts the same for every image."""

    tasks = TASKS

    def __init__(self, predictions: Predictions) -> None:
        super().__init__(MethodSection())
        self.predictions = predictions

    def observe(self, backbone, images, *, moments=None, generators=None):
        return None

    def forward_train(self, pyramid, *, labels=None, generator=None):
        raise NotImplementedError

    def loss(self, outputs, labels, weights=None):
        raise NotImplementedError

    def predict(self, pyramid, image_size):
        return self.predictions


def fixed_labels(probability: float, **settings):
    sample = random_sample(0)
    labels = collate([sample], TASKS).labels
    for task in ("saliency", "boundaries"):
        labels[task] = torch.full_like(labels[task], probability)
    reliability = {task: torch.ones(1, 1, 6, 8) for task in TASKS}
    for task in ("saliency", "boundaries"):
        reliability[task] *= max(probability, 1 - probability)
    method = Fixed(Predictions(labels=labels, reliability=reliability))
    found = label_images(
        None, method, [sample.image], seeds=[0], settings=LabellingSection(**settings)
    )
    return sample, *found[0]


@pytest.mark.parametrize("soft", [False, True])
def test_labels_of_all_tasks_have_the_encoding_of_a_sample(soft) -> None:
    sample, labels, reliability = fixed_labels(0.7, soft_labels=soft)
    assert list(labels) == list(reliability) == list(TASKS)
    for task, label in labels.items():
        assert (label.shape, label.dtype) == (sample.labels[task].shape, sample.labels[task].dtype)
        assert (reliability[task].shape, reliability[task].dtype) == ((6, 8), np.float32)
        if TASK_KINDS[task] != "probability":
            np.testing.assert_array_equal(label, sample.labels[task])
    members = encode_sample(replace(sample, labels=labels, reliability=reliability))
    back = decode_sample("s0", members)
    for task in ("saliency", "boundaries"):
        np.testing.assert_allclose(back.labels[task], 0.7 if soft else 1.0, atol=0.002)
        np.testing.assert_allclose(back.reliability[task], 0.7, atol=0.002)


@pytest.mark.parametrize(
    ("probability", "settings", "expected"),
    [
        (0.49, {}, 0.0),
        (0.5, {}, 1.0),
        (0.49, {"soft_labels": True}, 0.49),
        (0.6, {"min_pixel_confidence": 0.7}, -1.0),
        (0.6, {"min_pixel_confidence": 0.7, "soft_labels": True}, -1.0),
        (0.2, {"min_pixel_confidence": 0.7}, 0.0),
        (0.2, {"min_pixel_confidence": 0.7, "average_mirrored": True}, 0.0),
    ],
)
def test_probabilities_are_hard_or_soft_and_unsure_ones_ignored(
    probability, settings, expected
) -> None:
    _, labels, _ = fixed_labels(probability, **settings)
    for task in ("saliency", "boundaries"):
        np.testing.assert_allclose(labels[task], expected, atol=1e-6)


def test_without_limits_every_pixel_is_labelled_with_a_unit_normal(parts) -> None:
    image = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    normals, _ = label(parts, image)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-4)


def test_mirrored_labels_of_a_symmetric_image_are_nearly_symmetric(parts) -> None:
    half = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE // 2, 3), dtype=np.uint8)
    image = np.concatenate([half, half[:, ::-1]], axis=1)

    def asymmetry(normals):
        return np.abs(normals - normals[:, ::-1] * np.array([-1, 1, 1])).mean()

    plain, _ = label(parts, image)
    averaged, _ = label(parts, image, average_mirrored=True)
    assert asymmetry(averaged) < 0.25 * asymmetry(plain)
