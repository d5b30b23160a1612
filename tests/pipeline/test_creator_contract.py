"""What every creator fulfils: a new creator is one more name of the configuration."""

from __future__ import annotations

import functools
from typing import get_args

import numpy as np
import pytest

from perception.diffusion.moments import MomentsCache
from pipeline.make.build import make_learned_creator
from pipeline.make.creators import CREATORS, LEARNED_CREATORS, LearnedCreator, create_images
from pipeline.make.rows import ImageOrder
from schemas.config import CreatorSection
from schemas.config_file import parse_config
from tests.kit.small_run import make_sample
from tests.kit.tiny_models import tiny_backbone

every_creator = pytest.mark.parametrize("kind", sorted({*CREATORS, *LEARNED_CREATORS}))


def order(key: str, *, seed: int) -> ImageOrder:
    return ImageOrder(
        source_shard="s", source=make_sample(key, seed=len(key)), caption="a bed", seed=seed
    )


def images_of(kind: str, orders: list[ImageOrder]) -> np.ndarray:
    settings = CreatorSection(kind=kind, num_steps=2)
    create = create_images if kind in CREATORS else learned(kind)
    return create(tiny_backbone(), orders, settings=settings, moments=MomentsCache()).images


@functools.cache
def learned(kind: str) -> LearnedCreator:
    tree = {
        "run": {"url": "memory://run"},
        "creator": {"kind": kind, "num_steps": 2},
        "training": {stage: {"steps": 1} for stage in ("warm_up", "self_improve", "creator")},
    }
    made = make_learned_creator(parse_config(tree, origin="test"), tiny_backbone())
    assert made is not None
    return made


def test_every_creator_of_the_configuration_is_here():
    kinds = set(get_args(CreatorSection.model_fields["kind"].annotation))
    assert kinds == CREATORS.keys() | LEARNED_CREATORS.keys()


@every_creator
def test_an_image_is_uint8_and_has_the_size_of_its_source(kind):
    orders = [order("a", seed=1), order("bb", seed=2)]
    made = images_of(kind, orders)
    assert made.dtype == np.uint8
    assert made.shape == (2, *orders[0].source.image.shape)


@every_creator
def test_an_image_depends_on_its_order_and_not_on_its_batch(kind):
    orders = [order("a", seed=1), order("bb", seed=2), order("ccc", seed=3)]
    together = images_of(kind, orders)
    for i, each in enumerate(orders):
        (single,) = images_of(kind, [each])
        assert np.abs(together[i].astype(int) - single.astype(int)).max() <= 1


@every_creator
def test_the_same_seed_makes_the_same_image(kind):
    first, again = (images_of(kind, [order("a", seed=1)]) for _ in range(2))
    assert np.array_equal(first, again)


@every_creator
def test_another_seed_makes_another_image_unless_it_is_taken_as_it_is(kind):
    first, other = images_of(kind, [order("a", seed=1), order("a", seed=2)])
    assert np.array_equal(first, other) == (kind in {"unlabelled", "completion"})
