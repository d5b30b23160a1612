"""Checkpoints of a stage in a run directory."""

import json

import pytest
import torch
from safetensors.torch import save

from schemas.digest import sha256_of
from schemas.errors import RunFailedError, WeightsMismatchError
from storage.files.stores import open_store
from tests.kit.small_stage import assert_equal_learners, make_config, make_stage
from trainers.checkpoint import (
    CHECKPOINT_FILES,
    OPTIMIZER_FILE,
    STATE_FILE,
    StoredCheckpoints,
    pack_checkpoint,
    restore_checkpoint,
)
from trainers.on_ray.checkpoints import checkpoint_folders
from trainers.stage import run_stage

NUMBERS = {"format": 1, "step": 2, "seen_images": 8, "ema_updates": 0}


def checkpoint(content: bytes) -> dict[str, bytes]:
    """Files of a checkpoint, with their digests."""
    tensors = dict.fromkeys(CHECKPOINT_FILES[:-1], content)
    digests = {name: sha256_of(data) for name, data in tensors.items()}
    return {**tensors, STATE_FILE: json.dumps({**NUMBERS, "sha256": digests}).encode()}


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "run"))


@pytest.mark.slow
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
    kept.save(checkpoint(b"old"), step=2)
    for name in CHECKPOINT_FILES[:-1]:
        store.write_bytes(f"checkpoints/warm_up/local/00000004/{name}", b"cut off")
    assert kept.latest() == checkpoint(b"old")


def test_older_checkpoints_are_removed_once_two_newer_ones_are_complete(store):
    kept = StoredCheckpoints(store, "warm_up")
    for step in (2, 4, 8, 10):
        kept.save(checkpoint(str(step).encode()), step=step)
    assert store.list_dir("checkpoints/warm_up/local") == ["00000008", "00000010"]
    assert kept.latest() == checkpoint(b"10")


DAMAGE = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda _: b"",
    "changed in the middle": lambda data: b"?".join(
        (data[: len(data) // 2], data[len(data) // 2 + 1 :])
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("file", CHECKPOINT_FILES)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(store, caplog, file, damage):
    kept = StoredCheckpoints(store, "warm_up")
    for step in (2, 4):
        kept.save(checkpoint(str(step).encode() * 8), step=step)
    path = f"checkpoints/warm_up/local/00000004/{file}"
    store.write_bytes(path, damage(store.read_bytes(path)))
    assert kept.latest() == checkpoint(b"2" * 8)
    assert "checkpoint_is_passed_over" in caplog.text


def test_checkpoints_of_a_version_without_digests_are_read(store):
    kept = StoredCheckpoints(store, "warm_up")
    old = {**checkpoint(b"x"), STATE_FILE: json.dumps(NUMBERS).encode()}
    kept.save(old, step=2)
    assert kept.latest() == old


def write_checkpoint(store, path, *, step):
    for name, data in checkpoint(b"x").items():
        content = json.dumps({"step": step}).encode() if name == STATE_FILE else data
        store.write_bytes(f"checkpoints/warm_up/{path}/{name}", content)


def test_ray_looks_at_the_youngest_drivers_checkpoints_first_and_the_furthest_of_each(store):
    """Names of checkpoints hold a time, and clocks differ: steps and epochs do not."""
    for path, step in (
        ("checkpoint_2026-01-09_1", 30),
        ("epoch-00000002/checkpoint_2026-01-02_1", 8),
        ("epoch-00000002/checkpoint_2026-01-01_1", 12),
        ("epoch-00000011/checkpoint_2025-01-01_1", 10),
    ):
        write_checkpoint(store, path, step=step)
    store.write_bytes("checkpoints/warm_up/epoch-00000011/checkpoint_manager_snapshot.json", b"")
    store.write_bytes("checkpoints/warm_up/final/creation.safetensors", b"x")
    found = checkpoint_folders(store, "checkpoints/warm_up")
    assert [path.removeprefix("checkpoints/warm_up/") for path in found] == [
        "epoch-00000011/checkpoint_2025-01-01_1",
        "epoch-00000002/checkpoint_2026-01-01_1",
        "epoch-00000002/checkpoint_2026-01-02_1",
        "checkpoint_2026-01-09_1",
    ]
