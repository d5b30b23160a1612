"""Labels of synthetic images: unsure pixels stay unlabelled, mirror images are asked on demand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perception.diffusion.features import pyramid_channels
from perception.methods.diff2in1 import make_diff2in1
from pipeline.label import label_images, mask_unsure
from schemas.config import LabellingSection
from tests.tiny_models import tiny_backbone

SIZE = 64


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    backbone = tiny_backbone()
    method = make_diff2in1(
        block_out_channels=backbone.block_out_channels,
        level_channels=pyramid_channels(backbone.unet.config),
        vae_scale_factor=backbone.downsample_factor,
    )
    return backbone, method


def label(parts, image, **settings):
    backbone, method = parts
    labels, confidence = label_images(
        backbone,
        method,
        [image],
        seeds=[0],
        feature_timestep=0,
        settings=LabellingSection(**settings),
    )[0]
    return labels["normals"], confidence["normals"]


def test_unsure_pixels_carry_the_invalid_value_of_their_task() -> None:
    sure = np.array([[10.0, 50.0]], dtype=np.float32)
    normals = np.ones((1, 2, 3), dtype=np.float32)
    masked = mask_unsure(normals, sure, "normals", LabellingSection(max_pixel_error_deg=40))
    assert masked[0, 0].tolist() == [1, 1, 1]
    assert masked[0, 1].tolist() == [0, 0, 0]
    ids = np.array([[3, 4]], dtype=np.uint8)
    chance = np.array([[0.9, 0.2]], dtype=np.float32)
    found = mask_unsure(ids, chance, "semseg", LabellingSection(min_pixel_confidence=0.5))
    assert found.tolist() == [[3, 255]]


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
