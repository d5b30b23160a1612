"""Price of the trainer around a step: a step of a stage against a bare torch loop on one batch.

    python -m benchmarks.train_step --steps 40

Both sides run in one process, turn by turn, on the same batch size, backbone and method. The bare
loop has its latents encoded before, draws noise, runs the U-Net, the method, the loss, the backward
pass and the optimiser; the stage's step adds reading and collating samples, remembering latents,
checking that loss and gradient are finite, the moving average and progress.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import torch

from perception.build import make_method
from perception.diffusion.backbone import DiffusionBackbone, load_backbone
from perception.diffusion.features import extract_features
from perception.diffusion.latents import encode_moments
from perception.methods.protocol import supervised_loss
from schemas.config_file import parse_config
from schemas.paths import resolve_path
from storage.files.stores import open_store
from trainers.learner import make_learner
from trainers.parts import Environment, make_parts
from trainers.settings import stage_settings
from trainers.stage import run_stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from perception.methods.protocol import DensePredictor
    from schemas.config import RunConfig
    from sources.batches import Batch

WARM_UP_STEPS = 3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Training step against a bare torch loop.")
    parser.add_argument("--model", default="starter/diffusion", help="diffusers folder")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40, help="steps of each side")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(folder, arguments.model, arguments.batch_size)
        backbone = load_backbone(resolve_path(arguments.model))
        report(measure(config, backbone, arguments.steps), arguments.batch_size)


def make_config(folder: str, model: str, batch_size: int) -> RunConfig:
    """A control stage on the shipped rooms: everything but publishing and checkpoints."""
    stage = {"steps": 1, "batch_size": batch_size}
    return parse_config(
        {
            "run": {"url": folder},
            "model": {"diffusion": model},
            "training": {"warm_up": stage, "self_improve": stage},
        },
        origin="benchmark",
    )


def measure(config: RunConfig, backbone: DiffusionBackbone, steps: int) -> dict[str, list[float]]:
    """Seconds of every step of both sides, and of the parts of the bare one."""
    settings = stage_settings(config, "real_only_control")
    learner = make_learner(make_method(config, backbone))
    parts = make_parts(config, settings, open_store(config.run.url), backbone, Environment())
    bare = BareLoop(
        copy.deepcopy(learner.exploitation),
        backbone,
        next(parts.batches),
        settings.optimisation.learning_rate,
    )
    for _ in range(WARM_UP_STEPS + 64 // settings.optimisation.batch_size):
        one_more = settings.optimisation.model_copy(update={"steps": learner.step + 1})
        settings = replace(settings, optimisation=one_more)
        run_stage(settings, learner, parts)
        bare.step()
    bare.seconds.clear()
    stage_s: list[float] = []
    for _ in range(steps):
        one_more = settings.optimisation.model_copy(update={"steps": learner.step + 1})
        settings = replace(settings, optimisation=one_more)
        with timed(stage_s):
            run_stage(settings, learner, parts)
        with timed(bare.seconds["bare step"]):
            bare.step()
    return {"stage step": stage_s, **bare.seconds}


class BareLoop:
    """What anybody would write: features, loss, backward, optimiser."""

    def __init__(
        self,
        method: DensePredictor,
        backbone: DiffusionBackbone,
        batch: Batch,
        learning_rate: float,
    ) -> None:
        self.method = method.train()
        self.backbone = backbone
        self.labels = batch.labels
        self.moments = encode_moments(backbone, batch.images)
        self.optimizer = torch.optim.AdamW(
            method.parameters(), lr=learning_rate, weight_decay=0.0, fused=True
        )
        self.seeds = count()
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def step(self) -> None:
        """One step."""
        generator = torch.Generator().manual_seed(next(self.seeds))
        with timed(self.seconds["  features"]):
            pyramid = extract_features(self.backbone, self.moments, generators=generator)
        self.optimizer.zero_grad(set_to_none=True)
        with timed(self.seconds["  forward and loss"]):
            loss, _ = supervised_loss(self.method, pyramid, self.labels, generator=generator)
        with timed(self.seconds["  backward"]):
            loss.backward()  # type: ignore[no-untyped-call]
        with timed(self.seconds["  optimiser"]):
            self.optimizer.step()


@contextmanager
def timed(seconds: list[float], clock: Callable[[], float] = time.thread_time) -> Iterator[None]:
    """Append how long the block took.

    The CPU seconds of this thread do not count what other processes take from it; with more than
    one torch thread they leave out the other threads' work, on both sides alike.
    """
    started = clock()
    yield
    seconds.append(clock() - started)


def report(seconds: dict[str, list[float]], batch_size: int) -> None:
    """Print medians and the ratio."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"batch of {batch_size}, CPU seconds, median of {len(seconds['stage step'])} steps")
    for name, median in medians.items():
        print(f"{name:20s} {1000 * median:8.1f} ms")
    pairs = zip(seconds["stage step"], seconds["bare step"], strict=True)
    ratio = statistics.median(stage / bare for stage, bare in pairs)
    print(f"stage step / bare step: {ratio:.3f} (aim: at most 1.05)")


if __name__ == "__main__":
    main()
