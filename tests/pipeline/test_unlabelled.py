"""Real unlabelled images in place of synthetic ones."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.loop.local_runner import run_units
from pipeline.make.real import UnlabelledPool
from schemas.errors import SourceError
from sources.open import open_run_source
from storage.samples.codecs import decode_sample
from tests.kit.small_run import (
    all_rows,
    make_config,
    make_control,
    make_generator,
    prepare,
    stored_members,
)


def make_unlabelled_config(tmp_path, **plan):
    return make_config(
        tmp_path,
        source={"num_labelled": 3},
        creator={"kind": "unlabelled"},
        plan=plan,
    )


def test_each_planned_sample_is_another_image_that_is_not_among_the_labelled_ones(tmp_path):
    config = make_unlabelled_config(tmp_path)
    store = prepare(config)
    assert run_units(make_control(config), make_generator(config), store).kind == "finished"
    source = open_run_source(config)
    pool = {
        sample.key: sample.image
        for shard in source.shards("unlabelled")
        for sample in source.read(shard)
    }
    labelled = {key for shard in source.shards("train") for key in shard.keys}
    assert len(pool) == 5
    assert not labelled & pool.keys()
    made = [decode_sample(key, m).image for (_, key), m in stored_members(config).items()]
    taken = [key for image in made for key, real in pool.items() if np.array_equal(image, real)]
    assert len(made) == len(set(taken)) == 3
    rows = all_rows(config)
    assert {(row.creator, row.t_start, row.steps, row.caption) for row in rows} == {
        ("unlabelled", 0, 0, "")
    }
    assert len({row.source_sha256 for row in rows}) == 3


def test_a_pool_that_is_too_small_says_what_to_lower(tmp_path):
    config = make_unlabelled_config(tmp_path, variants=2)
    with pytest.raises(SourceError, match=r"wants 6 images.*found 5; lower"):
        UnlabelledPool(config, open_run_source(config))
