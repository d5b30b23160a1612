"""Images of any size on a network of one size, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deployment.placement import (
    MAX_PREDICTED_PIXELS,
    keep_aspect,
    resize_label,
    stretch,
)
from perception.methods.protocol import Predictions

SIZES = [(1, 1), (37, 121), (121, 37), (64, 64), (767, 1023), (3000, 4000), (5, 900)]


@pytest.mark.parametrize("size", SIZES)
def test_a_stretched_image_is_all_that_the_network_reads(size):
    placed = stretch(size, (48, 64))
    assert placed.network_size == placed.covered == (48, 64)
    assert placed.canvas_size == placed.predicted_size


@pytest.mark.parametrize("size", SIZES)
def test_a_padded_image_fits_the_levels_and_the_canvas_holds_its_prediction(size):
    placed = keep_aspect(size, (48, 64), multiple=32)
    assert all(side % 32 == 0 for side in placed.network_size)
    assert all(0 <= n - c < 32 for n, c in zip(placed.network_size, placed.covered, strict=True))
    assert all(c >= p for c, p in zip(placed.canvas_size, placed.predicted_size, strict=True))
    assert max(placed.covered) <= 4 * 64


def test_the_shorter_side_becomes_that_of_the_training_images():
    placed = keep_aspect((37, 121), (64, 64), multiple=32)
    assert placed.covered == (64, 209)
    assert placed.network_size == (64, 224)
    assert placed.predicted_size == (37, 121)
    assert placed.canvas_size == (37, 130)


def test_predictions_are_made_at_the_images_size_unless_it_is_huge():
    assert stretch((767, 1023), (64, 64)).predicted_size == (767, 1023)
    height, width = stretch((3000, 4000), (64, 64)).predicted_size
    assert height * width == pytest.approx(MAX_PREDICTED_PIXELS, rel=0.01)
    assert width / height == pytest.approx(4 / 3, rel=0.01)


def test_padding_repeats_the_last_row_and_column():
    image = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    placed = keep_aspect((40, 70), (40, 40), multiple=32)
    laid = placed.lay(image)
    assert laid.shape == (64, 96, 3)
    np.testing.assert_array_equal(laid[:40, :70], image)
    np.testing.assert_array_equal(laid[:40, 70:], np.repeat(image[:, -1:], 26, axis=1))
    np.testing.assert_array_equal(laid[40:], np.repeat(laid[39:40], 24, axis=0))


def test_what_was_predicted_for_the_padding_is_cut():
    placed = keep_aspect((37, 121), (64, 64), multiple=32)
    whole = torch.arange(37 * 130.0).view(1, 1, 37, 130)
    cut = placed.cut(Predictions(labels={"depth": whole}, reliability={"depth": whole}))
    torch.testing.assert_close(cut.labels["depth"], whole[..., :121])
    torch.testing.assert_close(cut.reliability["depth"], whole[..., :121])


def test_resized_normals_are_of_unit_length_and_the_mean_direction():
    left, right = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1.0])
    label = torch.stack([left, right], dim=1).view(1, 3, 1, 2)
    resized = resize_label(label, "normals", (1, 1))
    torch.testing.assert_close(resized.view(3), torch.tensor([0.5**0.5, 0, 0.5**0.5]))
    many = resize_label(
        torch.nn.functional.normalize(torch.randn(1, 3, 7, 5), dim=1), "normals", (31, 12)
    )
    torch.testing.assert_close(many.norm(dim=1), torch.ones(1, 31, 12))


def test_resized_class_ids_are_ids_that_were_there():
    label = torch.tensor([[[0, 7], [7, 20]]])
    resized = resize_label(label, "semseg", (5, 4))
    assert resized.dtype == torch.int64
    assert set(resized.unique().tolist()) == {0, 7, 20}
    torch.testing.assert_close(resize_label(label, "semseg", (4, 4))[:, ::2, ::2], label)


def test_resized_depth_keeps_a_plane():
    columns = (torch.arange(8) + 0.5).expand(1, 1, 4, 8)
    resized = resize_label(columns, "depth", (8, 16))
    wanted = ((torch.arange(16) + 0.5) / 2).expand(1, 1, 8, 16)
    torch.testing.assert_close(resized[..., 1:-1], wanted[..., 1:-1])
