"""The full-size path: Stable Diffusion v1.5 and BLIP-2-OPT-2.7B shapes, 512 x 512 pixels.

    python -m benchmarks.full_size --device cpu
    python -m benchmarks.full_size --device cuda --captioner random

Random models are written by ``save_pretrained`` and read back as real ones are; real ones can be
named instead. Each part runs once to warm up and to count its operations, then is timed. ``share``
is the part's rate of operations over that of a large matrix product in the same precision, measured
on the same device.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from perception.build import dtype_of, make_method, open_backbone
from perception.captioner import Blip2Captioner
from perception.diffusion.halfway import synthesize_halfway
from perception.diffusion.moments import MomentsCache
from pipeline.make.label import label_images
from schemas.config import CreatorSection
from schemas.config_file import apply_override, parse_config
from schemas.sample import Sample
from sources.batches import collate
from tests.kit.models.real_shapes import count_parameters, write_blip2, write_stable_diffusion
from trainers.learner import make_learner
from trainers.ranks import SingleRank
from trainers.step import step_generator, train_step

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from perception.diffusion.backbone import DiffusionBackbone
    from schemas.config import RunConfig


def main() -> None:
    """Measure and print."""
    options = make_parser().parse_args()
    torch.set_num_threads(options.threads)
    meter = Meter(options)
    meter.report_machine()
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(
            options, meter.timed_once("write models", write_models, options, folder)
        )
        images = make_images(options.batch_size, options.side)
        if options.diffusion != "none":
            measure_diffusion(meter, config, images)
        if options.captioner != "none":
            measure_captions(meter, config, images)


def make_parser() -> argparse.ArgumentParser:
    """Options; the defaults end within minutes on a CPU."""
    parser = argparse.ArgumentParser(description="Full-size models: seconds, memory, images/s.")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--diffusion", default="random", help="diffusers folder; random; none")
    parser.add_argument("--captioner", default="none", help="BLIP-2 folder; random (7.5 GB); none")
    parser.add_argument("--host", default="bae", help="method.name")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--side", type=int, default=512, help="of the images, in pixels")
    parser.add_argument("--num-steps", type=int, default=2, help="denoising steps")
    parser.add_argument(
        "--repeats", type=int, default=0, help="timed runs after the first; 0: that one counts"
    )
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="model.compile=true, ..."
    )
    return parser


def write_models(options: argparse.Namespace, folder: str) -> dict[str, str]:
    """Write the random models that were asked for; returns the folders of all models."""
    dtype = getattr(torch, options.dtype)
    found = {"diffusion": options.diffusion, "captioner_path": options.captioner}
    if options.diffusion == "random":
        found["diffusion"] = str(write_stable_diffusion(Path(folder) / "diffusion", dtype=dtype))
    if options.captioner == "random":
        found["captioner_path"] = str(write_blip2(Path(folder) / "captioner", dtype=dtype))
    return found


def make_config(options: argparse.Namespace, folders: dict[str, str]) -> RunConfig:
    """The run that the parts belong to."""
    tree = {
        "run": {"url": "memory://full-size"},
        "model": {**folders, "device": options.device, "dtype": options.dtype},
        "method": {"name": options.host, "tasks": ["normals"]},
        "creator": {"num_steps": options.num_steps, "batch_size": options.batch_size},
        "training": {
            "warm_up": {"steps": 1, "batch_size": options.batch_size},
            "self_improve": {"steps": 1, "batch_size": options.batch_size},
        },
    }
    for override in options.set:
        apply_override(tree, override)
    return parse_config(tree, origin="benchmark")


def measure_diffusion(meter: Meter, config: RunConfig, images: NDArray[np.uint8]) -> None:
    """Everything that the diffusion model does in a run."""
    backbone = meter.timed_once("load backbone", open_backbone, config)
    measure_generation(meter, config, backbone, images)
    measure_training(meter, config, backbone, images)


def measure_generation(
    meter: Meter, config: RunConfig, backbone: DiffusionBackbone, images: NDArray[np.uint8]
) -> None:
    """Synthesis and labelling of a batch."""
    settings = CreatorSection(num_steps=config.creator.num_steps)
    seeds = list(range(len(images)))

    def synthesize() -> NDArray[np.uint8]:
        prompts = ["a room"] * len(images)
        return synthesize_halfway(backbone, images, prompts, settings=settings, seeds=seeds)

    made = meter.measure(f"synthesis, {settings.num_steps} steps", synthesize, len(images))
    assert made.shape == images.shape
    method = make_method(config, backbone)
    meter.say(f"method {config.method.name}: {count_parameters(method) / 1e6:.1f} M parameters")
    meter.measure(
        "label",
        lambda: label_images(backbone, method, made, seeds=seeds, settings=config.labelling),
        len(images),
    )


def measure_training(
    meter: Meter, config: RunConfig, backbone: DiffusionBackbone, images: NDArray[np.uint8]
) -> None:
    """One training step on images whose latents are remembered, as in all steps but the first."""
    learner = make_learner(make_method(config, backbone))
    moments = MomentsCache()
    normals = np.zeros(images.shape[1:], dtype=np.float32)
    normals[..., 2] = 1
    samples = [
        Sample(key=str(i), image=image, labels={"normals": normals}, caption="")
        for i, image in enumerate(images)
    ]
    batch = collate(samples, ("normals",), versions=[-1] * len(samples))

    moments.encode(backbone, batch.images)

    def step() -> dict[str, float]:
        return train_step(
            learner,
            batch,
            backbone=backbone,
            moments=moments,
            ranks=SingleRank(),
            learning_rate=1e-4,
            generator=step_generator(0, "warm_up", 0, 0),
        )

    numbers = meter.measure("training step", step, len(samples))
    meter.say(f"loss {numbers['loss']:.3f}, gradient norm {numbers['grad_norm']:.3f}")


def measure_captions(meter: Meter, config: RunConfig, images: NDArray[np.uint8]) -> None:
    """Captions of a batch by a BLIP-2, 32 new tokens at most."""
    captioner = meter.timed_once(
        "load captioner",
        Blip2Captioner.load,
        config.model.captioner_path,
        device=config.model.device,
        dtype=dtype_of(config),
    )
    meter.measure("caption", lambda: captioner.caption(images), len(images))


def make_images(count: int, side: int) -> NDArray[np.uint8]:
    """Smooth random pictures, uint8 [count, side, side, 3]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    return (fine.clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


class Meter:
    """Times parts of the work and prints a line for each.

    Args:
        options: Of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.repeats = int(options.repeats)
        self.dtype = getattr(torch, options.dtype)
        self.threads = int(options.threads)
        self.ceiling_tflops = self._measure_ceiling()

    def report_machine(self) -> None:
        """Say where this runs and how fast a large matrix product is."""
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU"
        self.say(
            f"{name}, {self.threads} CPU thread(s), torch {torch.__version__}, {self.dtype}, "
            f"matrix product {self.ceiling_tflops:.3f} TFLOP/s"
        )

    def say(self, text: str) -> None:
        """Print at once."""
        print(text, flush=True)

    def timed_once(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run, and print seconds and peak memory."""
        started_s, cpu_s = time.perf_counter(), time.process_time()
        result = function(*args, **kwargs)
        self._wait()
        seconds, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
        self.say(f"{name}: {seconds:.1f} s ({cpu_s:.1f} s of CPU), peak {self._peak_gb():.2f} GB")
        return result

    def measure(self, name: str, function: Callable[[], Any], num_images: int) -> Any:
        """Run once to warm up and count operations, then time; print the line of a table."""
        readings: list[float] = []
        with FlopCounterMode(display=False) as counter:
            result = self._timed(function, readings)
        if self.repeats:
            readings.clear()
        for _ in range(self.repeats):
            result = self._timed(function, readings)
        seconds = statistics.median(readings)
        tflop = counter.get_total_flops() / 1e12
        share = tflop / seconds / self.ceiling_tflops
        self.say(
            f"{name}: batch {num_images}, {seconds:.2f} s, {num_images / seconds:.4f} images/s, "
            f"{tflop:.2f} TFLOP, share {share:.0%}, peak {self._peak_gb():.2f} GB"
        )
        return result

    def _timed(self, function: Callable[[], Any], readings: list[float]) -> Any:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        started_s = self._clock()
        result = function()
        self._wait()
        readings.append(self._clock() - started_s)
        return result

    def _clock(self) -> float:
        # Where other processes share the CPU, its own seconds count, not the wall's.
        return time.perf_counter() if self.device.type == "cuda" else time.process_time()

    def _measure_ceiling(self) -> float:
        side = 8192 if self.device.type == "cuda" else 2048
        factor = torch.randn(side, side, device=self.device, dtype=self.dtype)
        best_s = float("inf")
        for _ in range(10):
            readings: list[float] = []
            self._timed(lambda: factor @ factor, readings)
            best_s = min(best_s, readings[0])
        return 2 * side**3 / best_s / 1e12

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _peak_gb(self) -> float:
        """Largest memory: on a GPU since the last reset, on a CPU of the process so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 1e9
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
