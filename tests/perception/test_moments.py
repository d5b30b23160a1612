"""Latents of images that come back: encoded once, found by content, within a limit of bytes."""

from __future__ import annotations

import numpy as np
import torch

from perception.diffusion.latents import encode_moments, images_to_tensor
from perception.diffusion.moments import MomentsCache
from tests.kit.tiny_models import tiny_backbone

ONE_IMAGE_BYTES = 2 * 4 * 8 * 8 * 4


def images(*seeds):
    return [np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8) for seed in seeds]


def test_an_image_that_comes_back_is_not_encoded_again() -> None:
    cache = MomentsCache()
    first = cache.encode(tiny_backbone(), images(0, 1, 2))
    again = cache.encode(tiny_backbone(), images(2, 0, 1, 0))
    assert cache.num_encoded == len(cache) == 3
    assert torch.equal(first.mean[[2, 0, 1, 0]], again.mean)
    assert torch.equal(first.std[[2, 0, 1, 0]], again.std)


def test_remembered_moments_equal_those_of_the_encoder() -> None:
    cache = MomentsCache()
    pixels = images_to_tensor(images(0, 1))
    wanted = encode_moments(tiny_backbone(), pixels)
    for _ in range(2):
        found = cache.encode(tiny_backbone(), pixels)
        assert torch.equal(found.mean, wanted.mean)
        assert torch.equal(found.std, wanted.std)


def test_an_image_that_comes_twice_is_encoded_once_in_a_list_and_twice_in_a_tensor() -> None:
    rows = MomentsCache()
    rows.encode(tiny_backbone(), images_to_tensor(images(0, 1, 0)))
    assert (rows.num_encoded, len(rows)) == (3, 2)
    cache = MomentsCache()
    found = cache.encode(tiny_backbone(), images(0, 1, 0))
    assert cache.num_encoded == 2
    assert torch.equal(found.mean[0], found.mean[2])


def test_images_of_equal_bytes_and_other_shape_are_two() -> None:
    cache = MomentsCache()
    flat = np.zeros((32, 64, 3), np.uint8)
    cache.encode(tiny_backbone(), [flat])
    assert cache.encode(tiny_backbone(), [flat.reshape(64, 32, 3)]).mean.shape[-2:] == (16, 8)


def test_the_least_recently_used_is_forgotten_first_within_the_limit() -> None:
    cache = MomentsCache(max_bytes=2 * ONE_IMAGE_BYTES)
    for seed in (0, 1, 0, 2, 0, 1):
        cache.encode(tiny_backbone(), images(seed))
    assert len(cache) == 2
    assert cache.num_encoded == 4, "image 1 was forgotten for image 2, image 0 stayed"


def test_an_image_larger_than_the_cache_is_held_alone() -> None:
    cache = MomentsCache(max_bytes=1)
    for seed in (0, 0, 1):
        cache.encode(tiny_backbone(), images(seed))
        assert len(cache) == 1
    assert cache.num_encoded == 2
