"""Gain of batching: images a second of halfway synthesis in batches of 16 against one at a time.

    python -m benchmarks.halfway_batch --repeats 3

Both sides make the same images from the same rooms, captions and seeds, turn by turn in one
process: encode, noise to T, denoise under the caption, decode. The ratio is the median over the
repeats, each of which runs both sides.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import TYPE_CHECKING

import torch

from perception.diffusion.backbone import load_backbone
from perception.diffusion.halfway import synthesize_halfway
from schemas.config import CreatorSection
from schemas.config_source import RoomsSource
from schemas.paths import resolve_path
from schemas.sample import Sample
from sources.open import open_source

if TYPE_CHECKING:
    from perception.diffusion.backbone import DiffusionBackbone


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Halfway synthesis, batched against batch 1.")
    parser.add_argument("--model", default="starter/diffusion", help="diffusers folder")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--num-steps", type=int, default=25, help="denoising steps")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rooms = read_rooms(arguments.batch_size)
    backbone = load_backbone(resolve_path(arguments.model))
    settings = CreatorSection(num_steps=arguments.num_steps)
    single, batched = Side(1), Side(arguments.batch_size)
    for _ in range(arguments.repeats + 1):
        for side in (single, batched):
            side.run(backbone, rooms, settings)
    print(f"{len(rooms)} images, {settings.num_steps} steps, {arguments.threads} thread(s)")
    report(single, batched)


def read_rooms(count: int) -> list[Sample]:
    """The first rooms of the shipped training set."""
    source = open_source(RoomsSource(num_labelled=count), ("normals",))
    samples = [sample for shard in source.shards("train") for sample in source.read(shard)]
    return [sample for sample in samples if isinstance(sample, Sample)]


class Side:
    """Makes all images in batches of one size.

    Attributes:
        batch_size: Images denoised together.
        cpu_s: CPU seconds of this thread, one reading a run; they do not count what other
            processes take from it, and on an idle machine with one thread equal the wall's.
        wall_s: Wall seconds of the same runs.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.cpu_s: list[float] = []
        self.wall_s: list[float] = []

    def run(
        self, backbone: DiffusionBackbone, rooms: list[Sample], settings: CreatorSection
    ) -> None:
        """Make every image once."""
        wall_s, cpu_s = time.perf_counter(), time.thread_time()
        for start in range(0, len(rooms), self.batch_size):
            batch = rooms[start : start + self.batch_size]
            synthesize_halfway(
                backbone,
                [sample.image for sample in batch],
                [sample.caption for sample in batch],
                settings=settings,
                seeds=range(start, start + len(batch)),
            )
        self.cpu_s.append(time.thread_time() - cpu_s)
        self.wall_s.append(time.perf_counter() - wall_s)


def report(single: Side, batched: Side) -> None:
    """Print images a second and their ratio; the first run of each side was a warm-up."""
    num_images = batched.batch_size
    for side in (single, batched):
        cpu_s, wall_s = statistics.median(side.cpu_s[1:]), statistics.median(side.wall_s[1:])
        print(f"halfway, batch of {side.batch_size}: {num_images / cpu_s:.2f} images/s (no aim)")
        print(f"  by the wall clock {num_images / wall_s:.2f} images/s")
    pairs = zip(single.cpu_s[1:], batched.cpu_s[1:], strict=True)
    ratio = statistics.median(one / many for one, many in pairs)
    print(f"halfway, batched / batch 1: {ratio:.2f} (no aim)")


if __name__ == "__main__":
    main()
