"""Streams of real and synthetic samples, and batches of both at an exact ratio."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import chain, islice

import pytest
import torch

from schemas.errors import SourceError
from schemas.unit import synthetic_key
from sources.live_shards import LiveShardList
from sources.mixture import Mixture
from sources.streams import RealStream, SyntheticStream
from storage.files.stores import RunStore, open_store
from tests.kit.committed_units import commit, commit_samples, image_unit, relabel_unit
from tests.kit.memory_source import MemorySource
from tests.kit.random_labels import random_sample


@pytest.fixture
def store(tmp_path) -> RunStore:
    return open_store(str(tmp_path / "run"))


def keys_of(stream: RealStream, count: int) -> list[str]:
    return [sample.key for sample in islice(stream, count)]


def synthetic_stream(store: RunStore, **options) -> SyntheticStream:
    return SyntheticStream(store, LiveShardList(store, poll_s=0.0, **options), seed=0)


def mixture(store: RunStore, *, real_fraction: float, batch_size: int) -> Mixture:
    return Mixture(
        RealStream(MemorySource(10), seed=0),
        synthetic_stream(store),
        real_fraction=real_fraction,
        batch_size=batch_size,
        tasks=("normals", "depth"),
    )


def test_an_epoch_of_real_samples_holds_each_once():
    stream = RealStream(MemorySource(10), seed=3)
    first, second = keys_of(stream, 10), keys_of(stream, 10)
    assert sorted(first) == sorted(second) == sorted(f"k{i}" for i in range(10))
    assert first != second


def test_equal_seeds_give_equal_orders_and_other_seeds_others():
    orders = [keys_of(RealStream(MemorySource(20), seed=seed), 40) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_ranks_share_an_epoch_without_overlap():
    streams = [RealStream(MemorySource(12), seed=0, rank=r, world=3) for r in range(3)]
    parts = [keys_of(stream, 4) for stream in streams]
    assert sorted(chain(*parts)) == sorted(f"k{i}" for i in range(12))


def test_ranks_share_epochs_when_the_split_does_not_divide_evenly():
    streams = [RealStream(MemorySource(5), seed=0, rank=r, world=2) for r in range(2)]
    counts = Counter(chain(*(keys_of(stream, 5) for stream in streams)))
    assert set(counts.values()) == {2}


def test_a_real_stream_goes_on_from_its_state():
    stream = RealStream(MemorySource(7), seed=0)
    keys_of(stream, 9)
    state = stream.state()
    resumed = RealStream(MemorySource(7), seed=0)
    resumed.restore(state)
    assert keys_of(resumed, 12) == keys_of(stream, 12)


def test_fewer_or_more_ranks_go_on_where_the_others_were():
    alone = RealStream(MemorySource(12), seed=0)
    keys_of(alone, 6)
    pair = [RealStream(MemorySource(12), seed=0, rank=r, world=2) for r in range(2)]
    for stream in pair:
        stream.restore(alone.state())
    rest = keys_of(alone, 6)
    assert [keys_of(stream, 3) for stream in pair] == [rest[::2], rest[1::2]]


def test_a_small_split_is_read_once():
    source = MemorySource(10)
    keys_of(RealStream(source, seed=0), 50)
    assert source.num_reads == 10


def test_a_split_beyond_the_cache_is_read_shard_by_shard():
    source = MemorySource(16, shard_keys=4)
    stream = RealStream(source, seed=0, cache_bytes=4 * 8 * 8 * 20)
    epoch = keys_of(stream, 16)
    assert sorted(epoch) == sorted(f"k{i}" for i in range(16))
    shards = [{int(key[1:]) // 4 for key in epoch[i : i + 4]} for i in range(0, 16, 4)]
    assert all(len(shard) == 1 for shard in shards)


def test_unreadable_samples_are_left_out_and_remembered():
    stream = RealStream(MemorySource(6, unreadable=["k1", "k4"]), seed=0)
    assert set(keys_of(stream, 24)) == {"k0", "k2", "k3", "k5"}
    assert set(stream.unreadable) == {"k1", "k4"}


def test_a_split_without_a_readable_sample_is_an_error():
    stream = RealStream(MemorySource(2, unreadable=["k0", "k1"]), seed=0)
    with pytest.raises(SourceError, match="none of 2 samples"):
        next(stream)


def test_an_empty_split_is_an_error_at_once():
    with pytest.raises(SourceError, match="split test"):
        RealStream(MemorySource(2), "test", seed=0)


def test_synthetic_samples_come_from_all_shards_evenly(store):
    for name in "abc":
        commit(store, image_unit(name), version=0)
    stream = synthetic_stream(store)
    drawn = [stream.draw() for _ in range(120)]
    counts = Counter(sample.key for sample, _ in drawn)
    assert len(counts) == 12
    assert min(counts.values()) >= 8
    assert max(counts.values()) <= 12


def test_each_tar_is_read_once_from_storage(store, monkeypatch):
    for name in "ab":
        commit(store, image_unit(name), version=0)
    read: list[str] = []
    original = RunStore.read_bytes

    def counting(self, rel, **options):
        read.append(rel)
        return original(self, rel, **options)

    monkeypatch.setattr(RunStore, "read_bytes", counting)
    stream = synthetic_stream(store)
    for _ in range(50):
        stream.draw()
    tars = [rel for rel in read if rel.endswith(".tar")]
    assert len(tars) == len(set(tars)) == 2


def test_ranks_draw_synthetic_samples_in_other_orders(store):
    for name in "abcd":
        commit(store, image_unit(name), version=0)
    orders = []
    for rank in range(2):
        stream = SyntheticStream(store, LiveShardList(store, seed=rank), seed=0, rank=rank)
        orders.append([stream.draw()[0].key for _ in range(16)])
    assert orders[0] != orders[1]


def test_a_relabelled_unit_takes_over_at_once(store):
    unit = image_unit("a", num_keys=8)
    commit(store, unit, version=0)
    stream = synthetic_stream(store)
    before = {float(stream.draw()[0].labels["depth"][0, 0]) for _ in range(3)}
    commit(store, relabel_unit(unit, round_index=1), version=4)
    after = {float(stream.draw()[0].labels["depth"][0, 0]) for _ in range(20)}
    assert (before, after) == ({1.0}, {5.0})


def test_filtered_samples_are_never_drawn(store):
    unit = image_unit("a")
    commit(store, unit, version=0, filtered=("a1",))
    stream = synthetic_stream(store)
    drawn = {stream.draw()[0].meta["source_key"][-5:] for _ in range(40)}
    assert drawn == {"a0_v0", "a2_v0", "a3_v0"}


def test_a_damaged_shard_is_left_out_and_the_others_are_read(store):
    damaged = commit(store, image_unit("a"), version=0)
    commit(store, image_unit("b"), version=0)
    store.write_bytes(damaged.rows[0].tar_uri, b"not a tar")
    stream = synthetic_stream(store)
    drawn = {stream.draw()[1].image_unit_id for _ in range(30)}
    assert drawn == {image_unit("b").unit_id}
    assert stream.unreadable[damaged.rows[0].tar_uri] == 1


def test_a_store_that_fails_for_a_while_loses_no_shard(store, monkeypatch):
    commit(store, image_unit("a"), version=0)
    stream = synthetic_stream(store)
    original = RunStore.read_bytes

    def failing(self, rel, **options):
        if rel.endswith(".tar"):
            raise TimeoutError("no answer")
        return original(self, rel, **options)

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "read_bytes", failing)
        assert stream.draw() is None
    assert stream.draw() is not None


def test_there_is_nothing_to_draw_before_the_first_shard(store):
    assert synthetic_stream(store).draw() is None


@pytest.mark.parametrize("real_fraction", [0.25, 0.5, 0.75])
def test_every_batch_has_exactly_its_share_of_real_samples(store, real_fraction):
    commit(store, image_unit("a"), version=0)
    batches = islice(mixture(store, real_fraction=real_fraction, batch_size=8), 30)
    assert {int((~b.is_synthetic).sum()) for b in batches} == {int(8 * real_fraction)}


@pytest.mark.parametrize(("real_fraction", "batch_size"), [(0.3, 7), (0.61, 4), (1 / 3, 5)])
def test_a_share_that_does_not_divide_is_met_over_many_batches(store, real_fraction, batch_size):
    commit(store, image_unit("a"), version=0)
    num_batches = 100
    batches = list(islice(mixture(store, real_fraction=real_fraction, batch_size=batch_size), 100))
    real = [int((~batch.is_synthetic).sum()) for batch in batches]
    wanted = real_fraction * batch_size
    assert set(real) <= {math.floor(wanted), math.ceil(wanted)}
    assert abs(sum(real) - num_batches * wanted) < 1
    assert {len(batch) for batch in batches} == {batch_size}


def test_batches_are_real_until_the_first_shard_appears(store):
    mixed = mixture(store, real_fraction=0.5, batch_size=4)
    assert not next(mixed).is_synthetic.any()
    commit(store, image_unit("a"), version=2)
    batch = next(mixed)
    assert batch.is_synthetic.tolist() == [False, False, True, True]
    assert batch.versions.tolist() == [-1, -1, 2, 2]


def test_counts_survive_a_restart(store):
    commit(store, image_unit("a"), version=1)
    mixed = mixture(store, real_fraction=0.5, batch_size=4)
    for _ in range(5):
        next(mixed)
    resumed = mixture(store, real_fraction=0.5, batch_size=4)
    resumed.restore(mixed.state())
    next(resumed)
    assert resumed.state()["drawn"] == {"real": 12, "synthetic": 12}
    assert resumed.state()["live"]["consumed_by_version"] == {"1": 12}


def test_about_half_of_the_samples_are_mirrored_when_asked_for():
    stream = RealStream(MemorySource(4), seed=0)
    mixed = Mixture(stream, real_fraction=1.0, batch_size=50, tasks=("depth",), hflip=True)
    images = next(mixed).images
    is_mirrored = images[:, 0, 0, -1] == 1
    assert (images[~is_mirrored, 0, 0, 0] == 1).all()
    assert 15 <= int(is_mirrored.sum()) <= 35


@pytest.mark.parametrize("with_reliability", [False, True])
def test_confidence_is_read_and_weighs_pixels_only_when_asked_for(store, with_reliability):
    unit = image_unit("s", num_keys=2)
    made = random_sample(0, size=(8, 8))
    samples = {key: replace(made, key=synthetic_key(unit, key, 0)) for key in unit.keys}
    commit_samples(store, unit, samples, version=0)
    live = LiveShardList(store, poll_s=0.0)
    stream = SyntheticStream(store, live, seed=0, with_reliability=with_reliability)
    real = RealStream(MemorySource(10), seed=0)
    mixed = Mixture(real, stream, real_fraction=0.5, batch_size=4, tasks=("depth",))
    weights = next(mixed).weights
    if with_reliability:
        assert (weights["depth"][:2] == 1).all(), "real samples come first and count in full"
        wanted = torch.from_numpy(made.reliability["depth"]).expand(2, 1, -1, -1)
        torch.testing.assert_close(weights["depth"][2:], wanted, atol=0.003, rtol=0)
    else:
        assert weights == {}
        assert stream.draw()[0].reliability == {}


def test_a_source_whose_samples_nearly_all_fail_is_given_up_early():
    keys = [f"k{i}" for i in range(200)]
    source = MemorySource(200, unreadable=keys[:197])
    with pytest.raises(SourceError, match=r"fail the same way, decode_failed: memory: x"):
        keys_of(RealStream(source, seed=0), 10)
    assert source.num_reads < 40


def test_of_several_ranks_none_gives_up_before_the_others():
    keys = [f"k{i}" for i in range(100)]
    streams = [
        RealStream(MemorySource(100, unreadable=keys[:98]), seed=0, rank=r, world=2)
        for r in range(2)
    ]
    assert all(keys_of(stream, 3) for stream in streams)
