"""Images from orders."""

from __future__ import annotations

from perception.diffusion.moments import MomentsCache
from pipeline.make.creators import create_images
from pipeline.make.rows import ImageOrder
from schemas.config import CreatorSection
from tests.kit.small_run import make_sample
from tests.kit.tiny_models import tiny_backbone

SETTINGS = CreatorSection(num_steps=2)


def order(key, *, seed=1, caption="a bed"):
    return ImageOrder(
        source_shard="s", source=make_sample(key, seed=len(key)), caption=caption, seed=seed
    )


def test_a_real_image_is_encoded_once_for_all_its_variants_and_rounds():
    cache = MomentsCache()
    for seed in (0, 10):
        orders = [order("a", seed=seed), order("a", seed=seed + 1), order("bb", seed=seed)]
        create_images(tiny_backbone(), orders, settings=SETTINGS, moments=cache)
    assert cache.num_encoded == 2


def test_the_gaussian_creator_always_starts_from_pure_noise():
    assert CreatorSection(kind="gaussian", t_start=600).start == 1000
    assert CreatorSection(kind="halfway", t_start=600).start == 600
