"""Checkpoints of a stage in a run directory."""

import json

import pytest
import torch
from safetensors.torch import save

from schemas.errors import RunFailedError, WeightsMismatchError
from storage.filesystem import open_store
from tests.trainers.small_stage import assert_equal_learners, make_config, make_stage
from trainers.checkpoint import (
    CHECKPOINT_FILES,
    OPTIMIZER_FILE,
    STATE_FILE,
    StoredCheckpoints,
    pack_checkpoint,
    restore_checkpoint,
)
from trainers.stage import run_stage


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "run"))


def test_restoring_gives_back_weights_optimiser_counts_and_position(tmp_path):
    settings, learner, parts = make_stage(make_config(tmp_path), "real_only_control")
    run_stage(settings, learner, parts)
    files = pack_checkpoint(learner, stage=settings.stage, stream={"drawn": 24})
    _, fresh, _ = make_stage(make_config(tmp_path), "real_only_control")
    assert restore_checkpoint(fresh, files, stage=settings.stage) == {"drawn": 24}
    assert_equal_learners(fresh, learner)
    steps = {int(fields["step"]) for fields in fresh.optimizer.state.values()}
    assert steps == {6}


def test_a_checkpoint_holds_safetensors_and_json_alone(tmp_path):
    _, learner, _ = make_stage(make_config(tmp_path), "warm_up")
    files = pack_checkpoint(learner, stage="warm_up", stream={})
    assert tuple(files) == CHECKPOINT_FILES
    assert json.loads(files[STATE_FILE])["stage"] == "warm_up"
    for name in CHECKPOINT_FILES[:-1]:
        header_bytes = int.from_bytes(files[name][:8], "little")
        assert isinstance(json.loads(files[name][8 : 8 + header_bytes]), dict)


def test_a_checkpoint_of_another_stage_is_refused(tmp_path):
    _, learner, _ = make_stage(make_config(tmp_path), "warm_up")
    files = pack_checkpoint(learner, stage="warm_up", stream={})
    with pytest.raises(RunFailedError, match=r"wanted .* self_improve.*found stage warm_up"):
        restore_checkpoint(learner, files, stage="self_improve")


def test_optimiser_tensors_of_another_method_are_refused(tmp_path):
    _, learner, _ = make_stage(make_config(tmp_path), "warm_up")
    files = dict(pack_checkpoint(learner, stage="warm_up", stream={}))
    files[OPTIMIZER_FILE] = save({"unknown.weight/exp_avg": torch.zeros(1)})
    with pytest.raises(WeightsMismatchError, match=r"unknown\.weight"):
        restore_checkpoint(learner, files, stage="warm_up")


def test_the_newest_complete_checkpoint_is_found(store):
    kept = StoredCheckpoints(store, "warm_up")
    assert kept.latest() is None
    kept.save(dict.fromkeys(CHECKPOINT_FILES, b"old"), step=2)
    for name in CHECKPOINT_FILES[:-1]:
        store.write_bytes(f"checkpoints/warm_up/local/00000004/{name}", b"cut off")
    found = kept.latest()
    assert found is not None
    assert set(found.values()) == {b"old"}


def test_older_checkpoints_are_removed_once_a_newer_one_is_complete(store):
    kept = StoredCheckpoints(store, "warm_up")
    for step in (2, 4, 10):
        kept.save({name: str(step).encode() for name in CHECKPOINT_FILES}, step=step)
    assert store.list_dir("checkpoints/warm_up/local") == ["00000010"]
    assert kept.latest()[STATE_FILE] == b"10"
