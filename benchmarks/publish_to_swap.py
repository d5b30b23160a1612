"""Time from a trainer's publish to new weights in a generator, against a plain copy of the bytes.

    python -m benchmarks.publish_to_swap --repeats 5

The trainer's publisher copies, serialises and commits the weights and tells the registry, which
loads them and puts them into Ray's object store; another process fetches them
and copies them into its model in place. All of it is the project's own code on one machine; only
the wait for a unit is left out. Sizes: the starter's head, and 100 MB of float32.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import torch
from torch import nn

from perception.build import make_method
from perception.diffusion.backbone import load_backbone
from perception.state_file import state_to_bytes
from pipeline.make.generator import Generator
from pipeline.on_ray.registry import start_registry
from runs.on_ray import session as ray_session
from schemas.config_file import load_config
from schemas.paths import resolve_path
from sources.open import open_run_source
from storage.files.stores import open_store
from trainers.learner import make_learner
from trainers.publish import WeightsPublisher

if TYPE_CHECKING:
    from perception.diffusion.backbone import DiffusionBackbone
    from schemas.config import RunConfig

NUM_TENSORS = 25
STAGES = ("snapshot", "serialise, commit", "load, put", "fetch", "copy in", "all", "memcpy")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Publish to swap.")
    parser.add_argument("--synthetic-mb", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, ray_session.connect(make_config(folder)):
        for mb in (0, arguments.synthetic_mb):
            measure(make_config(f"{folder}/run-{mb}"), mb, arguments.repeats)


def make_config(url: str) -> RunConfig:
    """The demo, with room in the object store for some versions of the larger weights."""
    changes = (f"run.url={url}", "ray.object_store_mb=1024")
    return load_config(resolve_path("configs/rooms_demo.yaml"), changes)


def measure(config: RunConfig, mb: int, repeats: int) -> None:
    """Publish and swap some versions, print medians; the first one warms up."""
    name, chain = f"{mb} MB" if mb else "starter", Chain(config, mb)
    readings = [chain.publish_and_swap(version) for version in range(repeats + 1)][1:]
    print(f"{name}: {chain.weights.nbytes / 1e6:.2f} MB")
    medians = {stage: statistics.median(each[stage] for each in readings) for stage in readings[0]}
    for stage, median_s in medians.items():
        print(f"  {stage:20s} {1000 * median_s:9.2f} ms")
    print(f"publish to swap, {name}: {1000 * medians['all']:.1f} ms (no aim)")
    print(f"publish to swap / memcpy, {name}: {medians['all'] / medians['memcpy']:.0f} (no aim)")


def make_module(config: RunConfig, backbone: DiffusionBackbone, mb: int) -> Any:
    """The run's method, or with ``mb`` a module of so many megabytes (10^6) of float32."""
    if not mb:
        return make_method(config, backbone)
    return Weights(mb * 1_000_000 // 4 // NUM_TENSORS)


class Weights(nn.ParameterList):
    """Tensors of one size, with what the trainer asks of a method."""

    tuned_unet = None

    def __init__(self, count: int) -> None:
        super().__init__(nn.Parameter(torch.randn(count)) for _ in range(NUM_TENSORS))


class Swapper:
    """Takes weights in a process of its own, as a generator does between units."""

    def __init__(self, config: RunConfig, mb: int) -> None:
        torch.set_num_threads(1)
        backbone = load_backbone(resolve_path(config.model.diffusion))
        self._generator = Generator(
            config,
            store=open_store(config.run.url),
            source=open_run_source(config),
            backbone=backbone,
            method=make_module(config, backbone, mb),
        )

    def swap(self, registry: Any) -> tuple[float, float, int | None]:
        """Take the newest weights; seconds to fetch, seconds to copy, version held."""
        fetch: Any = ray.get
        started = time.perf_counter()
        manifest, (reference,) = fetch(registry.latest.remote())
        data, fetched = fetch(reference), time.perf_counter()
        self._generator.take_weights(manifest, data)
        return fetched - started, time.perf_counter() - fetched, self._generator.version


class Chain:
    """Publisher, registry and generator of a run; ``weights`` are the bytes that are published."""

    def __init__(self, config: RunConfig, mb: int) -> None:
        backbone = load_backbone(resolve_path(config.model.diffusion))
        self._learner = make_learner(make_module(config, backbone, mb))
        self._registry = start_registry(config)
        remote: Any = ray.remote(Swapper)
        self._swapper = remote.options(num_cpus=1).remote(config, mb)
        self._publisher = WeightsPublisher(
            open_store(config.run.url),
            base_model_hash=backbone.model_id,
            ema_decay=0.0,
            stage="self_improve",
            on_version=self._tell_registry,
        )
        self.weights = np.frombuffer(state_to_bytes(self._learner.creation), np.uint8)
        self._copy = self.weights.copy()
        self._told_at = (0.0, 0.0)

    def publish_and_swap(self, version: int) -> dict[str, float]:
        """Bring a version from trainer to generator; seconds by stage, and of a plain copy."""
        self._learner.step = version
        started = time.perf_counter()
        self._publisher.start(self._learner)
        copied = time.perf_counter()
        self._publisher.finish()
        fetch_s, take_s, held = ray.get(self._swapper.swap.remote(self._registry))
        ended = time.perf_counter()
        np.copyto(self._copy, self.weights)
        memcpy_s = time.perf_counter() - ended
        assert held == version, "the generator took other weights"
        committed, put = self._told_at
        parts = (copied - started, committed - copied, put - committed, fetch_s, take_s)
        return dict(zip(STAGES, (*parts, ended - started, memcpy_s), strict=True))

    def _tell_registry(self, version: int) -> None:
        committed = time.perf_counter()
        ray.get(self._registry.publish.remote(version))
        self._told_at = (committed, time.perf_counter())


if __name__ == "__main__":
    main()
