"""A short warm-up of a host on the rooms, by its shipped configuration, and its scores."""

from __future__ import annotations

import torch

from perception.build import make_method
from perception.diffusion.backbone import load_backbone
from perception.state_file import state_to_bytes
from runs.scoring import final_states, score_floor, score_weights
from schemas.config_file import load_config
from schemas.paths import resolve_path
from storage.files.stores import open_store
from trainers.train_stage import train_stage_locally

SHORT = (
    "source.num_validation=0",
    "source.num_test=48",
    "training.warm_up.steps=60",
    "training.warm_up.batch_size=8",
    "training.checkpoint_every_steps=1000",
)


def short_warm_up(config_file: str, folder, *overrides: str):
    """Return the scores of ``warm_up``, ``untrained`` and ``constant``, by task and metric."""
    torch.set_num_threads(1)
    config = load_config(config_file, (f"run.url={folder}", *SHORT, *overrides))
    train_stage_locally(config, "warm_up")
    store = open_store(config.run.url)
    backbone = load_backbone(resolve_path(config.model.diffusion), local_files_only=True)
    untrained = state_to_bytes(make_method(config, backbone))
    states = final_states(store) | {"untrained": untrained}
    return score_weights(config, store, states) | {"constant": score_floor(config)}
