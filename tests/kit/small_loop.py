"""The whole loop as the command that a user gives, on a few 32x32 images and tiny random models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runs.generation import plan_of
from runs.local_loop import generate_first_round
from schemas.config import RunConfig
from schemas.config_file import dump_config, parse_config
from schemas.unit import Unit
from storage.files.stores import open_store
from tests.kit.rooms_source import rooms_section
from tests.kit.small_stage import write_source
from tests.kit.tiny_models import tiny_diffusion_folder
from trainers.train_stage import train_stage_locally

STEPS = 24
CHECKPOINT_STEPS = 4
CREATOR = {"steps": STEPS, "batch_size": 4, "ema_decay": 0.9}
NUM_IMAGES = {"train": 8, "validation": 2, "test": 4}


def make_loop_config(folder: Path, **changes: dict[str, Any]) -> RunConfig:
    """A run of eight units in two rounds, in ``folder/run``; ``changes`` are sections."""
    if not (folder / "source").exists():
        write_source(folder / "source", NUM_IMAGES)
    tree: dict[str, Any] = {
        "run": {"url": str(folder / "run")},
        "model": {
            "diffusion": str(tiny_diffusion_folder()),
            "captioner": "source",
            "device": "cpu",
        },
        "source": rooms_section(folder / "source", **NUM_IMAGES),
        "creator": {"num_steps": 2, "batch_size": 2},
        "plan": {"rounds": 2, "variants": 1, "unit_size": 2},
        "labelling": {"max_pixel_error_deg": 180.0},
        "screening": {"max_expected_error_deg": 180.0, "min_pixel_std": 0.0},
        "training": {
            "warm_up": {"steps": 4, "batch_size": 4},
            "self_improve": {"steps": STEPS, "batch_size": 4},
            "ema": {"decay": 0.9, "every_samples": 8},
            "publish_every_images": 32,
            "checkpoint_every_steps": CHECKPOINT_STEPS,
            # All images of the first round, so that the second is labelled by newer weights
            # however fast the machine is.
            "min_synthetic_samples": NUM_IMAGES["train"],
            "poll_s": 0.2,
        },
        "generation": {"max_failed_fraction": 1.0, "unit_timeout_s": 120.0},
        "evaluation": {"control": False},
        "ray": {"object_store_mb": 80},
    }
    for section, values in changes.items():
        tree[section] = {**tree.get(section, {}), **values}
    return parse_config(tree, origin="test")


def write_loop(folder: Path, **changes: dict[str, Any]) -> tuple[list[str], tuple[Unit, ...]]:
    """Write a run's configuration.

    Returns:
        Arguments of ``jobs/self_improve.py``, and the plan.
    """
    config = make_loop_config(folder, **changes)
    file = folder / "config.yaml"
    file.write_text(dump_config(config))
    return ["--config", str(file)], plan_of(config)


def write_creator(folder: Path) -> tuple[list[str], tuple[Unit, ...]]:
    """Write a run that has its warm-up, and a creator that has to learn: for ``jobs/train.py``.

    Returns:
        Arguments of the job, and the plan.
    """
    arguments, plan = write_loop(folder, training={"creator": CREATOR})
    train_stage_locally(make_loop_config(folder, training={"creator": CREATOR}), "warm_up")
    return [*arguments, "--stage", "creator"], plan


def write_generation(
    folder: Path, *, creator_learns: bool = False
) -> tuple[list[str], tuple[Unit, ...]]:
    """Write a run that has its warm-up, and slow units to make: for ``jobs/generate.py``.

    Args:
        creator_learns: Whether what makes the images has learnt on those of the source.

    Returns:
        Arguments of the job, and the plan.
    """
    changes = {"creator": {"num_steps": 12, "batch_size": 1}, "plan": {"unit_size": 1}}
    if creator_learns:
        changes["training"] = {"creator": CREATOR}
    arguments, _ = write_loop(folder, **changes)
    config = make_loop_config(folder, **changes)
    train_stage_locally(config, "warm_up")
    if creator_learns:
        train_stage_locally(config, "creator")
    return [*arguments, "--rounds", "1"], plan_of(config, rounds=1)


def write_training(folder: Path) -> tuple[list[str], tuple[Unit, ...]]:
    """Write a run that has its warm-up and all its images: for ``jobs/train.py``.

    Returns:
        Arguments of the job, and the plan.
    """
    arguments, plan = write_loop(folder, plan={"rounds": 1})
    config = make_loop_config(folder, plan={"rounds": 1})
    train_stage_locally(config, "warm_up")
    generate_first_round(config, open_store(config.run.url))
    return [*arguments, "--stage", "self_improve"], plan
