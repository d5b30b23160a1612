"""Stages in which the U-Net learns with the method."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load

from perception.build import make_method
from perception.diffusion.moments import MomentsCache
from perception.state_file import load_state_bytes
from sources.batches import collate
from storage.files.stores import open_store
from storage.records.weights import read_weights
from tests.kit.small_stage import assert_equal_learners, make_config, make_sample, make_stage
from tests.kit.tiny_models import tiny_backbone
from trainers.checkpoint import pack_checkpoint, restore_checkpoint
from trainers.learner import make_learner
from trainers.ranks import SingleRank
from trainers.stage import run_stage
from trainers.step import step_generator, train_step
from trainers.train_stage import train_stage_locally

pytestmark = pytest.mark.slow

TUNINGS = ["lora", "full"]
TUNINGS = ["lora", "full"]


def make_tuned_config(tmp_path, tuning):
    config = make_config(tmp_path)
    method = config.method.model_copy(
        update={"backbone_tuning": tuning, "lora_rank": 2, "backbone_lr_factor": 0.1}
    )
    return config.model_copy(update={"method": method})


@pytest.mark.parametrize("tuning", TUNINGS)
def test_the_first_step_of_adam_moves_the_unet_by_its_own_learning_rate(tmp_path, tuning):
    learner = make_learner(make_method(make_tuned_config(tmp_path, tuning), tiny_backbone()))
    before = {name: each.detach().clone() for name, each in learner.exploitation.named_parameters()}
    samples = [make_sample(f"s{i}", seed=i) for i in range(3)]
    numbers = train_step(
        learner,
        collate(samples, ("normals",), versions=[-1] * 3),
        backbone=tiny_backbone(),
        moments=MomentsCache(),
        ranks=SingleRank(),
        learning_rate=1e-2,
        generator=step_generator(0, "warm_up", 0, 0),
    )
    assert numbers["grad_norm"] > 0
    moved: dict[bool, float] = {True: 0.0, False: 0.0}
    for name, each in learner.exploitation.named_parameters():
        is_unet = name.startswith("tuned_unet.")
        moved[is_unet] = max(moved[is_unet], float((each.detach() - before[name]).abs().max()))
    assert moved[False] == pytest.approx(1e-2, rel=0.01)
    assert moved[True] == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_checkpoint_restores_the_unet_and_its_optimiser(tmp_path, tuning):
    config = make_tuned_config(tmp_path, tuning)
    settings, learner, parts = make_stage(config, "real_only_control")
    run_stage(settings, learner, parts)
    files = pack_checkpoint(learner, stage=settings.stage, stream={})
    _, fresh, _ = make_stage(config, "real_only_control")
    restore_checkpoint(fresh, files, stage=settings.stage)
    assert_equal_learners(fresh, learner)


def test_a_stage_publishes_the_low_rank_terms_and_others_load_them(tmp_path):
    config = make_tuned_config(tmp_path, "lora")
    train_stage_locally(config, "warm_up")
    _, data = read_weights(open_store(config.run.url), 0)
    names = [name for name in load(data) if name.startswith("tuned_unet.")]
    assert names
    assert all("lora_" in name for name in names)
    method = make_method(config, tiny_backbone())
    assert all(not each.any() for name, each in method.state_dict().items() if "/lora_B/" in name)
    load_state_bytes(method, data)
    learnt = [each for name, each in method.state_dict().items() if "/lora_B/" in name]
    assert all(torch.isfinite(each).all() and each.any() for each in learnt)
