"""Render rooms into tar shards: image, exact labels and caption of each view.

Example:
    python jobs/render_rooms.py OUT --first 0 --rooms 384 --views 2 --prefix train

Shards that are already there are skipped, so a stopped job goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kit.renderer.render import VIEWS_PER_SEED
from kit.renderer.shards import ShardTask, write_manifest, write_shards
from runs.command_line import run_job
from schemas.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str]) -> None:
    """Render every missing shard.

    Raises:
        UserError: If an option is out of range or a package is missing.
    """
    options = make_options(argv)
    tasks = plan_shards(options)
    missing = [task for task in tasks if not task.path.exists()]
    print(f"{len(missing)} of {len(tasks)} shards to render", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, count, seconds in write_shards(missing, processes=options.processes):
        print(f"{name}: {count} images, {seconds / max(count, 1):.3f} s each", flush=True)
    if options.manifest:
        print(f"manifest of {write_manifest(options.out)} samples")


def plan_shards(options: argparse.Namespace) -> list[ShardTask]:
    """Split the rooms into shards of about `--per-shard` images; a room is never split.

    Raises:
        UserError: If a count is out of range.
    """
    if not 1 <= options.views <= VIEWS_PER_SEED or options.rooms < 1 or options.processes < 1:
        raise UserError(
            f"wanted --rooms >= 1, --processes >= 1 and --views in 1..{VIEWS_PER_SEED}; found "
            f"--rooms {options.rooms}, --processes {options.processes}, --views {options.views}"
        )
    rooms_each = max(1, options.per_shard // options.views)
    last = options.first + options.rooms
    starts = range(options.first, last, rooms_each)
    return [
        ShardTask(
            path=options.out / f"{options.prefix}-{number:06d}.tar",
            seeds=range(start, min(start + rooms_each, last)),
            views=options.views,
            size=options.size,
            samples=options.spp,
            images_only=options.images_only,
        )
        for number, start in enumerate(starts)
    ]


def make_options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the shards")
    parser.add_argument("--first", type=int, default=0, help="seed of the first room")
    parser.add_argument("--rooms", type=int, required=True, help="number of rooms")
    parser.add_argument("--views", type=int, default=2, help="views of each room")
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--spp", type=int, default=16, help="light paths a pixel")
    parser.add_argument("--processes", type=int, default=1, help="one-thread processes")
    parser.add_argument("--per-shard", type=int, default=128, help="images in a shard")
    parser.add_argument("--prefix", default="rooms", help="start of the shards' names")
    parser.add_argument("--images-only", action="store_true", help="image and caption, no labels")
    parser.add_argument("--manifest", action="store_true", help="then list all shards of OUT")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_job(main)
