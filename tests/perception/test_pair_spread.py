"""Several samples of a map: their mean and how sure it is."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from perception.pairs.spread import angle_deg, mean_of_samples
from perception.seeding import sample_generator
from schemas.errors import ConfigError
from schemas.sample import TASKS


def normals(*vector, count=2):
    direction = functional.normalize(torch.tensor(vector, dtype=torch.float32), dim=0)
    return direction.view(1, 3, 1, 1).expand(count, 3, 4, 5)


def random_normals(seed):
    drawn = torch.randn(2, 3, 4, 5, generator=sample_generator(seed))
    return functional.normalize(drawn, dim=1)


def test_equal_normals_are_their_own_mean_without_error():
    one = random_normals(0)
    for count in (1, 2, 7):
        mean, error = mean_of_samples("normals", [one] * count)
        torch.testing.assert_close(mean, one)
        assert error.shape == (2, 1, 4, 5)
        assert error.max() < 1e-4


def test_opposite_normals_have_no_mean_and_lie_at_right_angles_to_it():
    mean, error = mean_of_samples("normals", [normals(0, 0, 1), normals(0, 0, -1)])
    assert not mean.any(), "the invalid value"
    torch.testing.assert_close(error, torch.full_like(error, 90.0))


@pytest.mark.parametrize("half_angle", [0.01, 10.0, 60.0])
def test_the_expected_error_is_the_mean_angle_to_the_mean(half_angle):
    radians = math.radians(half_angle)
    x, z = math.sin(radians), math.cos(radians)
    mean, error = mean_of_samples("normals", [normals(x, 0, z), normals(-x, 0, z)])
    torch.testing.assert_close(mean, normals(0, 0, 1))
    torch.testing.assert_close(error, torch.full_like(error, half_angle), rtol=1e-3, atol=0)


def test_a_wider_spread_means_a_larger_error_and_no_error_is_below_the_least():
    around = normals(0, 0, 1)
    errors = []
    for width in (0.05, 0.2, 0.8):
        samples = [
            functional.normalize(around + width * random_normals(seed), dim=1) for seed in range(16)
        ]
        errors.append(mean_of_samples("normals", samples)[1])
        least = mean_of_samples("normals", samples, least_error_deg=20.0)[1]
        assert torch.equal(least, errors[-1].clamp_min(20.0))
    assert errors[0].mean() < errors[1].mean() < errors[2].mean()


def test_the_mean_depth_is_geometric_and_sure_where_samples_are_within_a_quarter_of_it():
    samples = [torch.full((1, 1, 2, 2), value) for value in (2.0, 8.0)]
    mean, confidence = mean_of_samples("depth", samples)
    torch.testing.assert_close(mean, torch.full_like(mean, 4.0))
    assert not confidence.any()
    samples = [torch.full((1, 1, 2, 2), value) for value in (4.0, 4.2, 3.9, 8.0)]
    mean, confidence = mean_of_samples("depth", samples)
    torch.testing.assert_close(mean, torch.full_like(mean, math.prod((4, 4.2, 3.9, 8)) ** 0.25))
    torch.testing.assert_close(confidence, torch.full_like(confidence, 0.75))


def test_the_class_is_the_most_frequent_and_its_share_the_confidence():
    samples = [
        torch.tensor([[[a, b, c]]]) for a, b, c in ((3, 2, 7), (3, 1, 7), (5, 2, 7), (3, 1, 7))
    ]
    found, confidence = mean_of_samples("semseg", samples)
    assert found.tolist() == [[[3, 1, 7]]], "of several the lowest"
    assert found.dtype == torch.int64
    assert confidence.tolist() == [[[[0.75, 0.5, 1.0]]]]


def test_the_probability_is_the_mean_and_sure_away_from_a_half():
    samples = [torch.full((1, 1, 1, 1), value) for value in (0.1, 0.3)]
    mean, confidence = mean_of_samples("saliency", samples)
    assert mean.item() == pytest.approx(0.2)
    assert confidence.item() == pytest.approx(0.8)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_mean_and_no_samples_are_refused(task):
    label = random_normals(0) if task == "normals" else torch.rand(2, 1, 4, 5)
    if task in ("semseg", "human_parts"):
        label = torch.ones(2, 4, 5, dtype=torch.int64)
    mean, reliability = mean_of_samples(task, [label])
    assert mean.shape == label.shape
    assert reliability.shape == (2, 1, 4, 5)
    with pytest.raises(ConfigError, match=f"{task}.*found none"):
        mean_of_samples(task, [])


def test_angles_are_exact_where_the_arc_cosine_is_not():
    tiny = 1e-4
    left, right = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([1.0, tiny, 0.0])
    assert angle_deg(left, right, dim=0).item() == pytest.approx(math.degrees(tiny), rel=1e-3)
    assert angle_deg(left, -left, dim=0).item() == pytest.approx(180)
