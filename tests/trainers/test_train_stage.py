"""Whole stages from a configuration, in one process."""

import json

import pytest
import torch

from perception.state_file import load_state_bytes
from storage.files.stores import open_store
from storage.records.events import read_events
from storage.records.weights import list_versions, read_weights
from tests.kit.small_stage import commit_synthetic, make_config, make_stage
from trainers.final import has_final, read_final, read_final_weights
from trainers.train_stage import StageStoppedError, train_stage_locally


@pytest.fixture
def config(tmp_path):
    return make_config(tmp_path, min_synthetic_samples=4)


@pytest.fixture
def store(config):
    return open_store(config.run.url)


@pytest.mark.slow
def test_warm_up_ends_with_version_zero_and_both_final_weights(config, store):
    ended = train_stage_locally(config, "warm_up")
    assert (ended["stage"], ended["step"], ended["seen_images"]) == ("warm_up", 4, 16)
    assert ended["version"] == 0
    assert 0 < ended["validation"]["normals_mean_deg"] < 180
    creation = read_final_weights(store, "warm_up")
    assert creation == read_final_weights(store, "warm_up", "exploitation.safetensors")
    assert creation == read_weights(store, 0)[1]


@pytest.mark.slow
def test_the_loop_publishes_and_ends_with_the_newest_version(config, store):
    told: list[int] = []
    train_stage_locally(config, "warm_up")
    commit_synthetic(store, version=0)
    ended = train_stage_locally(config, "self_improve", on_version=told.append)
    assert ended["version"] == list_versions(store)[-1] >= 1
    assert told == list_versions(store)[1:]
    assert read_final_weights(store, "self_improve") == read_weights(store, ended["version"])[1]
    assert has_final(store, "self_improve")


@pytest.mark.slow
def test_the_control_starts_from_version_zero_and_publishes_nothing(config, store):
    train_stage_locally(config, "warm_up")
    ended = train_stage_locally(config, "real_only_control")
    assert (ended["step"], ended["seen_images"]) == (6, 24)
    assert list_versions(store) == [0]
    creation = read_final_weights(store, "real_only_control")
    assert creation != read_weights(store, 0)[1]
    load_state_bytes(make_stage(config, "warm_up")[1].creation, creation)


@pytest.mark.slow
def test_a_stage_that_has_ended_is_not_trained_again(config, store):
    first = train_stage_locally(config, "warm_up")
    assert train_stage_locally(config, "warm_up") == first == read_final(store, "warm_up")


@pytest.mark.slow
def test_a_stopped_stage_goes_on_at_its_checkpoint(config, store):
    def stop(fields):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_stage_locally(config, "warm_up", on_progress=stop)
    state = json.loads(store.read_bytes("checkpoints/warm_up/local/00000004/state.json"))
    assert state["step"] == 4
    assert train_stage_locally(config, "warm_up")["step"] == 4


def test_a_loop_without_warm_up_says_what_to_do(config):
    with pytest.raises(StageStoppedError, match=r"version 0.*train stage warm_up first"):
        train_stage_locally(config, "real_only_control")


@pytest.mark.slow
def test_a_loop_that_finds_no_synthetic_samples_starves(config, store):
    train_stage_locally(config, "warm_up")
    with pytest.raises(StageStoppedError, match=r"waited .* for 4 synthetic samples, found 0"):
        train_stage_locally(config, "self_improve")
    assert next(e["wanted"] for e in read_events(store) if e["event"] == "starved") == 4


@pytest.mark.slow
def test_weights_of_another_method_are_refused(config, store, tmp_path):
    train_stage_locally(config, "warm_up")
    other = config.model_copy(
        update={"method": config.method.model_copy(update={"tasks": ("depth",)})}
    )
    with pytest.raises(StageStoppedError, match=r"cannot start from what is stored.*keys_hash"):
        train_stage_locally(other, "real_only_control")


def test_a_diverging_stage_stops_with_its_reason(tmp_path):
    wild = {"steps": 6, "batch_size": 4, "learning_rate": 1e30}
    with pytest.raises(StageStoppedError, match=r"warm_up diverged.*lower the learning rate"):
        train_stage_locally(make_config(tmp_path, warm_up=wild), "warm_up")


@pytest.mark.slow
def test_equal_seeds_train_equal_weights(tmp_path):
    stores = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        config = make_config(folder)
        train_stage_locally(config, "warm_up")
        stores.append(open_store(config.run.url))
    assert read_weights(stores[0], 0)[1] == read_weights(stores[1], 0)[1]
    assert torch.get_num_threads() == 1
