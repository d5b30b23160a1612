"""How busy a generator is, and how much memory it takes, in the generation loop on Ray.

    python -m benchmarks.generator --units 3

A real loop on the shipped rooms and models: first units that make and label images, then units
that label the same images again with newer weights. Units are waiting all the time. The busy share
is the time inside the actor's ``generate`` (weights, images, labels, shard, commit), told by Ray's
own timeline, over the time from the first of these calls to the end of the last.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import torch

from perception.build import make_method
from perception.diffusion.backbone import load_backbone
from perception.state_file import keys_digest, state_to_bytes
from pipeline.loop.plan import make_plan
from pipeline.make.caption import SourceCaptions, caption_source
from pipeline.on_ray.coordinator import GenerationLoop
from runs.on_ray import session as ray_session
from schemas.config_file import load_config
from schemas.paths import resolve_path
from sources.open import open_run_source
from storage.files.stores import open_store
from storage.records.weights import publish_weights

if TYPE_CHECKING:
    from schemas.config import RunConfig

GENERATE = "GeneratorActor.generate"
KINDS = ("synthesize", "relabel")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Busy share and peak memory of a generator.")
    parser.add_argument("--config", default="configs/rooms_demo.yaml")
    parser.add_argument("--units", type=int, default=3, help="units of each kind")
    parser.add_argument("--num-generators", type=int, default=1)
    parser.add_argument("--unit-size", type=int, help="images of a unit; default: plan.unit_size")
    arguments = parser.parse_args()
    # Ray reads these when it starts; they make ray.timeline() complete.
    os.environ |= {"RAY_PROFILING": "1", "RAY_task_events_report_interval_ms": "200"}
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(arguments, folder)
        caption_source(open_store(folder), open_run_source(config), SourceCaptions())
        with ray_session.connect(config):
            for version, kind in enumerate(KINDS):
                publish_random_weights(config, version)
                run_round(config, version, kind)


def make_config(arguments: argparse.Namespace, folder: str) -> RunConfig:
    """Two rounds on a few rooms; nothing is screened out, for the weights are random."""
    path = resolve_path(arguments.config)
    unit_size = arguments.unit_size or load_config(path).plan.unit_size
    changes = {
        "run.url": folder,
        "model.captioner": "source",
        "source.num_labelled": arguments.units * unit_size,
        "plan.rounds": len(KINDS),
        "plan.images": "reuse",
        "plan.unit_size": unit_size,
        "labelling.max_pixel_error_deg": 180,
        "screening.min_pixel_std": 0,
        "screening.max_expected_error_deg": 180,
        "generation.num_generators": arguments.num_generators,
    }
    return load_config(path, tuple(f"{name}={value}" for name, value in changes.items()))


def publish_random_weights(config: RunConfig, version: int) -> None:
    """Publish untrained creation weights: they weigh and cost what trained ones do."""
    torch.manual_seed(version)
    backbone = load_backbone(resolve_path(config.model.diffusion))
    method = make_method(config, backbone)
    publish_weights(
        open_store(config.run.url),
        state_to_bytes(method),
        version=version,
        step=version,
        seen_images=0,
        ema_decay=config.training.ema.decay,
        base_model_hash=backbone.model_id,
        keys_hash=keys_digest(method),
        stage="warm_up",
        parent=version - 1,
    )


def run_round(config: RunConfig, round_index: int, kind: str) -> None:
    """Make the units of a round, print what it took."""
    plan = make_plan(config, open_run_source(config).shards("train"))
    loop = GenerationLoop(
        config, plan=[unit for unit in plan if unit.round <= round_index], weights_final=True
    )
    started_us = 1e6 * time.time()
    try:
        loop.start()
        loop.join()
        calls = [event for event in generate_calls() if event["ts"] >= started_us]
        gauges, peaks = loop.gauges(), peak_memory_mib(loop)
    finally:
        loop.stop()
    busy_s, wall_s = busy_and_wall_s(calls)
    print(f"{kind}: {len(calls)} units in {wall_s:.1f} s; {gauges['samples_ok']} samples so far")
    print(f"  {1000 * (wall_s - busy_s) / len(calls):.1f} ms a unit outside of generate")
    print(f"generator busy share, {kind}: {busy_s / wall_s:.4f} (aim: at least 0.95)")
    print(
        f"  without weights and commit, as the loop's own gauge has it: {gauges['busy_share']:.4f}"
    )
    print(f"generator peak memory, {kind}: {max(peaks):.0f} MiB (no aim)")


def generate_calls() -> list[dict[str, Any]]:
    """Calls of ``generate`` on Ray's timeline; ``ts`` and ``dur`` are in microseconds."""
    return [event for event in ray.timeline() if GENERATE in event["cat"]]


def busy_and_wall_s(calls: list[dict[str, Any]]) -> tuple[float, float]:
    """Seconds inside the calls, and from first start to last end, added up over processes."""
    by_process = defaultdict(list)
    for call in calls:
        by_process[call["tid"]].append(call)
    busy_us = sum(call["dur"] for call in calls)
    wall_us = sum(
        max(call["ts"] + call["dur"] for call in own) - min(call["ts"] for call in own)
        for own in by_process.values()
    )
    return busy_us / 1e6, wall_us / 1e6


def peak_memory_mib(loop: GenerationLoop) -> list[float]:
    """Peak resident memory of each generator process, as Linux counts it, in MiB."""
    pids = ray.get([actor.ping.remote() for actor in loop.actors.values()])
    status = [Path(f"/proc/{pid}/status").read_text(encoding="utf-8") for pid in pids]
    return [int(text.split("VmHWM:")[1].split()[0]) / 1024 for text in status]


if __name__ == "__main__":
    main()
