"""The stage in which the denoiser learns: what it averages, publishes, keeps and resumes."""

import threading

import pytest
import torch

from perception.build import make_creator_network
from perception.state_file import load_state_bytes, state_to_bytes
from schemas.errors import ConfigError
from storage.files.stores import open_store
from storage.records.captions import CaptionRow, write_captions
from storage.records.events import read_events
from storage.records.weights import list_versions, read_weights
from tests.kit.small_stage import (
    MemoryCheckpoints,
    SharedMeans,
    ThreadRanks,
    assert_equal_learners,
    make_config,
    make_stage,
)
from tests.kit.tiny_models import tiny_backbone
from trainers.final import read_final_weights
from trainers.settings import stage_settings
from trainers.stage import resume_stage, run_stage
from trainers.train_stage import train_stage_locally

CREATOR = {"steps": 6, "batch_size": 4, "learning_rate": 1.0e-2, "ema_decay": 0.5, "lora_rank": 2}


def make_creator_config(tmp_path, **changes):
    return make_config(tmp_path, creator=CREATOR | changes)


def write_some_captions(config) -> None:
    rows = [CaptionRow("train-00", "a bed", "test"), CaptionRow("train-01", "a sofa", "test")]
    write_captions(open_store(config.run.url), "train-000000", rows)


def test_the_moving_average_follows_each_step_with_the_stages_own_decay(tmp_path):
    settings, learner, parts = make_stage(make_creator_config(tmp_path, steps=1), "creator")
    start = {name: t.clone() for name, t in learner.creation.state_dict().items()}
    run_stage(settings, learner, parts)
    assert (learner.step, learner.ema_updates) == (1, 1)
    learnt = learner.exploitation.state_dict()
    assert any(not torch.equal(learnt[name], start[name]) for name in start)
    for name, averaged in learner.creation.state_dict().items():
        torch.testing.assert_close(averaged, (start[name] + learnt[name]) / 2)


def test_batches_carry_the_runs_captions_in_this_stage_alone(tmp_path):
    config = make_creator_config(tmp_path)
    write_some_captions(config)
    known = {"train-00": "a bed", "train-01": "a sofa"}
    for stage, wanted in (("creator", known), ("warm_up", {})):
        _, _, parts = make_stage(config, stage)
        shown = {}
        for _ in range(3):
            batch = next(parts.batches)
            shown |= dict(zip(batch.keys, batch.captions, strict=True))
        assert shown == {key: wanted.get(key, "") for key in shown}
        assert len(shown) == 12


@pytest.mark.slow
def test_a_resumed_stage_equals_the_uninterrupted_one(tmp_path):
    config = make_creator_config(tmp_path)
    settings, whole, parts = make_stage(config, "creator")
    run_stage(settings, whole, parts)

    kept = MemoryCheckpoints()
    settings, first, parts = make_stage(config, "creator", checkpoints=kept)
    run_stage(settings, first, parts)
    del kept.saved[6]
    settings, second, parts = make_stage(config, "creator", checkpoints=kept)
    assert resume_stage(settings, second, parts)
    assert second.step == 4
    run_stage(settings, second, parts)
    assert_equal_learners(second, whole)


@pytest.mark.slow
def test_two_ranks_hold_equal_weights(tmp_path):
    config, shared = make_creator_config(tmp_path), SharedMeans(2)
    made = [make_stage(config, "creator", ranks=ThreadRanks(rank, shared)) for rank in range(2)]
    threads = [threading.Thread(target=run_stage, args=each) for each in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (_, first, _), (_, second, _) = made
    assert first.step == 6
    assert_equal_learners(second, first)


@pytest.mark.slow
def test_it_ends_with_version_zero_of_its_own_series_and_figures_of_before_and_after(tmp_path):
    config = make_creator_config(tmp_path)
    write_some_captions(config)
    store = open_store(config.run.url)
    ended = train_stage_locally(config, "creator")
    assert (ended["step"], ended["seen_images"], ended["ema_updates"]) == (6, 24, 6)
    assert list_versions(store, series="creator") == [ended["version"]] == [0]
    assert list_versions(store) == []
    manifest, data = read_weights(store, 0, series="creator")
    assert (manifest.stage, manifest.ema_decay) == ("creator", 0.5)
    assert data == read_final_weights(store, "creator")
    assert data != read_final_weights(store, "creator", "exploitation.safetensors")

    before, after = ended["validation_untrained"], ended["validation"]
    assert list(before) == list(after) == ["denoising_loss"]
    _, _, parts = make_stage(config, "creator")
    untrained = make_creator_network(config, tiny_backbone())
    assert parts.validator.figures(untrained) == before
    load_state_bytes(untrained, data)
    assert parts.validator.figures(untrained) == after != before
    events = [e for e in read_events(store) if e["event"] == "validation"]
    assert [event["step"] for event in events] == [0, 2, 4, 6]
    assert train_stage_locally(config, "creator") == ended


@pytest.mark.slow
def test_learning_lowers_the_loss_on_images_that_it_has_not_seen(tmp_path):
    config = make_creator_config(
        tmp_path, tuning="full", steps=30, learning_rate=2.0e-3, batch_size=12
    )
    ended = train_stage_locally(config, "creator")
    before, after = ended["validation_untrained"], ended["validation"]
    assert after["denoising_loss"] < 0.95 * before["denoising_loss"]


def test_the_first_weights_are_those_of_the_configuration_and_seed(tmp_path):
    config = make_creator_config(tmp_path)
    _, learner, _ = make_stage(config, "creator")
    wanted = make_creator_network(config, tiny_backbone())
    assert state_to_bytes(learner.exploitation) == state_to_bytes(wanted)
    assert state_to_bytes(learner.creation) == state_to_bytes(wanted)


def test_without_its_section_there_is_no_such_stage(tmp_path):
    with pytest.raises(ConfigError, match=r"add training\.creator\.steps"):
        stage_settings(make_config(tmp_path), "creator")
