"""A complete small training run: a few 32x32 images on disk, a tiny random backbone, any stage."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from schemas.config import RunConfig
from schemas.config_file import parse_config
from schemas.sample import Sample
from schemas.stages import Stage
from schemas.unit import Unit, synthetic_key
from sources.batches import Batch
from storage.files.stores import RunStore, open_store
from tests.kit.committed_units import commit_samples
from tests.kit.rooms_source import rooms_section, write_rooms
from tests.kit.tiny_models import IMAGE_SIZE_PX, tiny_backbone, tiny_diffusion_folder
from trainers.checkpoint import CheckpointFiles
from trainers.learner import Learner, make_learner
from trainers.parts import Environment, TrainParts, make_parts
from trainers.settings import StageSettings, stage_settings
from trainers.train_stage import make_learned

NUM_IMAGES = {"train": 12, "validation": 4}


def make_sample(key: str, *, seed: int, is_synthetic: bool = False) -> Sample:
    """An image of coloured blocks whose colours are its normals: there is something to learn."""
    random = np.random.default_rng(seed)
    blocks = random.normal(size=(4, 4, 3))
    blocks[..., 2] = np.abs(blocks[..., 2]) + 0.2
    blocks /= np.linalg.norm(blocks, axis=2, keepdims=True)
    normals = blocks.repeat(IMAGE_SIZE_PX // 4, axis=0).repeat(IMAGE_SIZE_PX // 4, axis=1)
    image = np.clip((normals + 1) * 127.5, 0, 255).astype(np.uint8)
    return Sample(
        key=key,
        image=image,
        labels={"normals": normals.astype(np.float32)},
        caption="a room",
        is_synthetic=is_synthetic,
    )


def write_source(folder: Path, num_images: Mapping[str, int] = NUM_IMAGES) -> Path:
    """Write a source of so many images by split."""
    shards = {
        f"{split}-000000": [
            make_sample(f"{split}-{i:02d}", seed=100 * number + i) for i in range(count)
        ]
        for number, (split, count) in enumerate(num_images.items())
    }
    return write_rooms(folder, shards)


def make_config(tmp_path: Path, **training: Any) -> RunConfig:
    """A run of a few steps in ``tmp_path/run``; ``training`` changes its section."""
    source = tmp_path / "source"
    if not source.exists():
        write_source(source)
    section = {
        "warm_up": {"steps": 4, "batch_size": 4},
        "self_improve": {"steps": 6, "batch_size": 4},
        "ema": {"decay": 0.9, "every_samples": 8},
        "publish_every_images": 8,
        "checkpoint_every_steps": 2,
        "poll_s": 0.01,
        "starved_after_s": 0.05,
    }
    tree = {
        "run": {"url": str(tmp_path / "run")},
        "model": {"diffusion": str(tiny_diffusion_folder()), "device": "cpu"},
        "source": rooms_section(source, **NUM_IMAGES),
        "training": section | training,
    }
    return parse_config(tree, origin="test")


def commit_synthetic(store: RunStore, *, version: int, num_samples: int = 4) -> Unit:
    """Commit a unit of synthetic samples, as a generator does; returns it."""
    unit = Unit(
        round=version,
        kind="synthesize",
        source_shard="train-000000",
        keys=tuple(f"train-{i:02d}" for i in range(num_samples)),
        variants=1,
        seed=version,
        recipe_hash="recipe",
    )
    samples = {
        key: make_sample(synthetic_key(unit, key, 0), seed=1000 + i, is_synthetic=True)
        for i, key in enumerate(unit.keys)
    }
    commit_samples(store, unit, samples, version=version, attempt="a")
    return unit


def make_stage(
    config: RunConfig, stage: Stage, **environment: Any
) -> tuple[StageSettings, Learner, TrainParts]:
    """Settings, learner and parts of a stage that starts from the initial weights."""
    settings = stage_settings(config, stage)
    backbone = tiny_backbone()
    learner = make_learner(make_learned(config, stage, backbone))
    store = open_store(config.run.url)
    return (
        settings,
        learner,
        make_parts(config, settings, store, backbone, Environment(**environment)),
    )


def tensors_of(learner: Learner) -> dict[str, Tensor]:
    """All tensors of both sets of weights."""
    return {
        f"{name}.{key}": tensor
        for name in ("creation", "exploitation")
        for key, tensor in getattr(learner, name).state_dict().items()
    }


def assert_equal_learners(found: Learner, wanted: Learner) -> None:
    assert (found.step, found.seen_images) == (wanted.step, wanted.seen_images)
    for name, tensor in tensors_of(wanted).items():
        torch.testing.assert_close(tensors_of(found)[name], tensor, rtol=0, atol=0, msg=name)


def largest_difference(first: Learner, second: Learner) -> float:
    pairs = zip(tensors_of(first).values(), tensors_of(second).values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs if a.is_floating_point())


class MemoryCheckpoints:
    """Checkpoints in a dictionary, by step."""

    def __init__(self) -> None:
        self.saved: dict[int, CheckpointFiles] = {}

    def latest(self) -> CheckpointFiles | None:
        return self.saved[max(self.saved)] if self.saved else None

    def save(self, files: CheckpointFiles | None, *, step: int) -> None:
        if files is not None:
            self.saved[step] = dict(files)

    def is_due(self) -> bool:
        return False


class ThreadRanks:
    """Ranks that are threads of one process."""

    def __init__(self, rank: int, shared: SharedMeans) -> None:
        self.rank = rank
        self.world = shared.world
        self._shared = shared

    def average_(self, tensors: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for tensor, mean in zip(tensors, self._shared.mean(self.rank, tensors), strict=True):
                tensor.copy_(mean)


class SharedMeans:
    """Where threads meet to average their tensors."""

    def __init__(self, world: int) -> None:
        self.world = world
        self._given: list[list[Tensor]] = [[] for _ in range(world)]
        self._barrier = threading.Barrier(world, timeout=60)

    def mean(self, rank: int, tensors: Sequence[Tensor]) -> list[Tensor]:
        self._given[rank] = [tensor.detach().clone() for tensor in tensors]
        self._barrier.wait()
        means = [torch.stack(group).mean(dim=0) for group in zip(*self._given, strict=True)]
        self._barrier.wait()
        return means


class FixedBatches:
    """The same batches over and over."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches
        self._drawn = 0

    def __iter__(self) -> FixedBatches:
        return self

    def __next__(self) -> Batch:
        self._drawn += 1
        return self._batches[(self._drawn - 1) % len(self._batches)]

    def state(self) -> dict[str, Any]:
        return {"drawn": self._drawn}

    def restore(self, state: dict[str, Any]) -> None:
        self._drawn = state["drawn"]
