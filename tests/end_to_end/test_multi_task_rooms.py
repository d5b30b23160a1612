"""The multi-task methods learn rooms: a short warm-up beats an answer that never looks."""

from __future__ import annotations

import pytest

from runs.scoring import score_floor, score_run
from schemas.config_file import load_config
from storage.files.stores import open_store
from trainers.train_stage import train_stage_locally

SHORT = (
    "source.num_labelled=32",
    "source.num_validation=0",
    "source.num_test=32",
    "method.tasks=[normals, depth]",
    "training.warm_up.steps=40",
    "training.warm_up.batch_size=8",
    "training.warm_up.learning_rate=2.0e-3",
    "training.warm_up.lr_warm_up_steps=5",
)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["invpt", "taskprompter", "taskdiffusion", "diffusionmtl"])
def test_a_short_warm_up_beats_the_constant_answer(name: str, tmp_path) -> None:
    overrides = (f"run.url={tmp_path}", *SHORT)
    config = load_config(f"configs/methods/{name}_rooms.yaml", overrides)
    train_stage_locally(config, "warm_up")
    found = score_run(config, open_store(config.run.url))["warm_up"]
    constant = score_floor(config)
    assert found["normals"]["mean_deg"] < constant["normals"]["mean_deg"]
    assert found["depth"]["rmse_m"] < constant["depth"]["rmse_m"]
