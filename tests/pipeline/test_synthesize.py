"""Images from orders."""

from __future__ import annotations

import numpy as np
import pytest

import pipeline.make.synthesize
from pipeline.make.synthesize import ImageOrder, MomentsCache, create_images, sampler_settings
from schemas.config import CreatorSection
from tests.kit.small_run import make_sample
from tests.kit.tiny_models import tiny_backbone

SETTINGS = CreatorSection(num_steps=2)


def order(key, *, seed=1, caption="a bed"):
    return ImageOrder(
        source_shard="s", source=make_sample(key, seed=len(key)), caption=caption, seed=seed
    )


@pytest.fixture
def encoded(monkeypatch):
    calls = []
    real = pipeline.make.synthesize.encode_moments

    def count(backbone, images):
        calls.append(len(images))
        return real(backbone, images)

    monkeypatch.setattr(pipeline.make.synthesize, "encode_moments", count)
    return calls


def test_a_real_image_is_encoded_once_for_all_its_variants_and_rounds(encoded):
    cache = MomentsCache()
    for seed in (0, 10):
        orders = [order("a", seed=seed), order("a", seed=seed + 1), order("bb", seed=seed)]
        create_images(tiny_backbone(), orders, settings=SETTINGS, moments=cache)
    assert encoded == [2]


def test_the_cache_forgets_the_least_recently_used_and_stays_within_its_bytes(encoded):
    backbone = tiny_backbone()
    one_image = 2 * 4 * 8 * 8 * 4
    cache = MomentsCache(max_bytes=2 * one_image)
    for key in ("a", "bb", "a", "ccc", "a", "bb"):
        cache.encode(backbone, [order(key)])
    assert len(cache) == 2
    assert encoded == [1, 1, 1, 1]


def test_an_image_depends_on_its_order_and_not_on_its_batch():
    orders = [order("a", seed=1), order("bb", seed=2), order("ccc", seed=3)]
    together = create_images(tiny_backbone(), orders, settings=SETTINGS, moments=MomentsCache())
    alone = create_images(tiny_backbone(), orders[1:2], settings=SETTINGS, moments=MomentsCache())
    assert together.dtype == np.uint8
    assert np.abs(together[1].astype(int) - alone[0].astype(int)).max() <= 1


@pytest.mark.parametrize("kind", ["halfway", "gaussian"])
def test_another_seed_makes_another_image(kind):
    settings = CreatorSection(kind=kind, num_steps=2)
    orders = [order("a", seed=1), order("a", seed=2)]
    made = create_images(tiny_backbone(), orders, settings=settings, moments=MomentsCache())
    assert made.shape == (2, 32, 32, 3)
    assert not np.array_equal(made[0], made[1])


def test_the_gaussian_creator_always_starts_from_pure_noise():
    assert sampler_settings(CreatorSection(kind="gaussian", t_start=600)).starts_from_pure_noise
    assert sampler_settings(CreatorSection(kind="halfway", t_start=600)).t_start == 600
