"""The loop of a stage: what it averages, publishes, keeps and resumes."""

import threading

import pytest
import torch

from perception.state_file import state_to_bytes
from schemas.config import RunConfig
from storage.files.stores import open_store
from storage.records.events import read_events
from storage.records.weights import list_versions, read_manifest, read_weights
from tests.kit.small_stage import (
    MemoryCheckpoints,
    SharedMeans,
    ThreadRanks,
    assert_equal_learners,
    commit_synthetic,
    largest_difference,
    make_config,
    make_stage,
)
from tests.kit.tiny_models import tiny_backbone
from trainers.publish import publish_first
from trainers.ranks import agree_on_equal
from trainers.stage import resume_stage, run_stage


def test_warm_up_leaves_the_creation_weights_alone(tmp_path):
    settings, learner, parts = make_stage(make_config(tmp_path), "warm_up")
    before = {name: t.clone() for name, t in learner.creation.state_dict().items()}
    run_stage(settings, learner, parts)
    assert (learner.step, learner.seen_images) == (4, 16)
    for name, tensor in learner.creation.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.slow
def test_a_resumed_stage_equals_the_uninterrupted_one(tmp_path):
    config = make_config(tmp_path, hflip=True)
    settings, whole, parts = make_stage(config, "real_only_control")
    run_stage(settings, whole, parts)

    kept = MemoryCheckpoints()
    settings, first, parts = make_stage(config, "real_only_control", checkpoints=kept)
    run_stage(settings, first, parts)
    del kept.saved[6]
    settings, second, parts = make_stage(config, "real_only_control", checkpoints=kept)
    assert resume_stage(settings, second, parts)
    assert (second.step, second.seen_images) == (4, 16)
    run_stage(settings, second, parts)
    assert_equal_learners(second, whole)
    for mine, theirs in zip(
        second.exploitation.parameters(), whole.exploitation.parameters(), strict=True
    ):
        found, wanted = second.optimizer.state[mine], whole.optimizer.state[theirs]
        assert all(torch.equal(found[field], wanted[field]) for field in wanted)


def test_nothing_is_resumed_where_nothing_was_kept(tmp_path):
    config = make_config(tmp_path)
    settings, learner, parts = make_stage(config, "warm_up", checkpoints=MemoryCheckpoints())
    assert not resume_stage(settings, learner, parts)
    assert learner.step == 0


@pytest.mark.slow
def test_the_control_differs_from_self_improving_by_its_data_alone(tmp_path):
    config = make_config(tmp_path)
    learners = {}
    for stage in ("real_only_control", "self_improve"):
        settings, learner, parts = make_stage(config, stage)
        run_stage(settings, learner, parts)
        learners[stage] = learner
    # Without synthetic samples the data are the same; what is left are the draws of the steps.
    control, improved = learners["real_only_control"], learners["self_improve"]
    assert (control.step, control.seen_images) == (improved.step, improved.seen_images)
    assert largest_difference(control, improved) > 0


@pytest.mark.slow
def test_self_improving_publishes_a_version_each_so_many_images(tmp_path):
    config = make_config(tmp_path)
    store = open_store(config.run.url)
    told: list[int] = []
    settings, learner, parts = make_stage(config, "self_improve", on_version=told.append)
    publish_first(store, learner.creation, stage="warm_up", base_model_hash="base", ema_decay=0.9)
    run_stage(settings, learner, parts)
    parts.publisher.finish()
    assert list_versions(store)[0] == 0
    newest, data = read_weights(store, list_versions(store)[-1])
    assert (newest.step, newest.seen_images, newest.stage) == (6, 24, "self_improve")
    assert data == state_to_bytes(learner.creation)
    parents = [read_manifest(store, version).parent for version in list_versions(store)]
    assert parents == [-1, *list_versions(store)[:-1]]
    assert told == list_versions(store)[1:]


@pytest.mark.slow
def test_progress_events_tell_what_the_terminal_shows(tmp_path):
    config = make_config(tmp_path)
    commit_synthetic(open_store(config.run.url), version=0)
    settings, learner, parts = make_stage(config, "self_improve")
    store = open_store(config.run.url)
    publish_first(store, learner.creation, stage="warm_up", base_model_hash="b", ema_decay=0.9)
    run_stage(settings, learner, parts)
    parts.progress.tell()
    events = list(read_events(open_store(config.run.url)))
    last = [event for event in events if event["event"] == "trainer_progress"][-1]
    assert last["stage"] == "self_improve"
    assert (last["step"], last["steps"], last["seen_images"]) == (6, 6, 24)
    assert last["synthetic_fraction"] == 0.5
    assert last["images_per_s"] > 0
    assert last["staleness_max"] >= 0
    assert 0 < last["validation"]["normals_mean_deg"] < 180
    assert {"loss", "learning_rate", "version", "publish_lag"} <= last.keys()


def run_on_threads(config: RunConfig, world: int):
    shared = SharedMeans(world)
    made = [
        make_stage(config, "real_only_control", ranks=ThreadRanks(rank, shared))
        for rank in range(world)
    ]
    threads = [threading.Thread(target=run_stage, args=each) for each in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [learner for _, learner, _ in made]


@pytest.mark.slow
def test_two_ranks_hold_equal_weights_after_half_a_batch_each(tmp_path):
    config = make_config(tmp_path)
    first, second = run_on_threads(config, 2)
    assert_equal_learners(second, first)
    assert (first.step, first.seen_images) == (6, 24)


@pytest.mark.slow
def test_two_ranks_average_as_often_as_one_with_the_whole_batch(tmp_path):
    config = make_config(tmp_path)
    (alone,) = run_on_threads(config, 1)
    first, second = run_on_threads(config, 2)
    assert alone.ema_updates == first.ema_updates == second.ema_updates == 24 // 8


def test_ranks_notice_whether_they_hold_the_same_bytes():
    for last, wanted in ((b"same", True), (b"other", False)):
        shared = SharedMeans(3)
        found: dict[int, bool] = {}

        def vote(rank, data, shared=shared, found=found):
            found[rank] = agree_on_equal(ThreadRanks(rank, shared), data)

        given = [b"same", b"same", last]
        threads = [threading.Thread(target=vote, args=each) for each in enumerate(given)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(found.values()) == {wanted}


def test_ranks_see_disjoint_halves_of_an_epoch(tmp_path):
    config = make_config(tmp_path)
    shared = SharedMeans(2)
    seen = []
    for rank in range(2):
        _, _, parts = make_stage(config, "warm_up", ranks=ThreadRanks(rank, shared))
        seen.append({key for _ in range(3) for key in next(parts.batches).keys})
    assert not seen[0] & seen[1]
    assert len(seen[0] | seen[1]) == 12


def test_validation_scores_the_creation_weights_on_the_same_features_each_time(tmp_path):
    config = make_config(tmp_path)
    _, learner, parts = make_stage(config, "self_improve")
    first = parts.validator.score(learner.creation)
    assert parts.validator.num_images == 4
    assert (
        first["normals"]["mean_deg"]
        == parts.validator.score(learner.creation)["normals"]["mean_deg"]
    )
    assert not learner.creation.training


def test_a_stage_leaves_the_backbone_as_it_was(tmp_path):
    settings, learner, parts = make_stage(make_config(tmp_path), "warm_up")
    before = {name: tensor.clone() for name, tensor in tiny_backbone().unet.state_dict().items()}
    run_stage(settings, learner, parts)
    for name, tensor in tiny_backbone().unet.state_dict().items():
        assert torch.equal(tensor, before[name])
