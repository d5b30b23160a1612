"""Predict for photographs of any size with the creation weights of a run.

    python jobs/predict.py --run runs/demo photograph.jpg photographs/ --out predictions

Every image gives ``<name>.<task>.png`` in the encodings of docs/data_format.md at its own size,
``<name>.<task>_confidence.png``, and ``<name>.overview.png`` to look at; ``--npy`` adds the exact
arrays. An image that cannot be read is named, the others go on, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console

from deployment.files import predict_files
from deployment.inputs import PREDICTIONS_FILE, find_images
from deployment.options import add_run_options, open_output, open_run
from runs.command_line import run_job
from schemas.errors import ConfigError, RunFailedError
from schemas.sample import TASKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from schemas.sample import Task


def main(arguments: Sequence[str]) -> None:
    """Predict what the command line asks for.

    Raises:
        RunFailedError: If an image could not be read; the others are done.
    """
    parsed = make_parser().parse_args(arguments)
    found = find_images(parsed.images, out=parsed.out)
    tasks = parse_tasks(parsed.tasks)
    out = open_output(parsed.out, marker=PREDICTIONS_FILE)
    run = open_run(parsed)
    console = Console()
    if unused := found.unused.describe():
        console.print(unused, soft_wrap=True, highlight=False, markup=False)
    started_s = time.monotonic()
    entries = predict_files(
        run,
        found.files,
        out,
        tasks=tasks,
        keeps_aspect=parsed.keep_aspect,
        averages_mirrored=parsed.average_mirrored,
        with_npy=parsed.npy,
        console=console,
    )
    failed = [entry for entry in entries if "error" in entry]
    seconds = time.monotonic() - started_s
    console.print(
        f"{len(entries) - len(failed)} of {len(entries)} images in {seconds:.1f} s: {out.url}",
        soft_wrap=True,
        markup=False,
    )
    if failed:
        raise RunFailedError(
            f"{_describe(failed, len(entries))}; {out.uri(PREDICTIONS_FILE)} lists them with the "
            "reasons"
        )


def _describe(failed: Sequence[Mapping[str, Any]], total: int) -> str:
    # What was read has a size.
    num_read = sum("height" in entry for entry in failed)
    parts = {"images could not be read": len(failed) - num_read}
    parts["images were read, and their results could not be written"] = num_read
    return ", ".join(f"{count} of {total} {text}" for text, count in parts.items() if count)


def parse_tasks(text: str | None) -> tuple[Task, ...]:
    """Read ``normals,depth``; None stands for all tasks of the run, which is the empty result.

    Raises:
        ConfigError: If there is no such task, or none is named.
    """
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        raise ConfigError(
            f"--tasks {text}: {', '.join(unknown)} is no task; choose among {', '.join(TASKS)}"
        )
    if text is not None and not names:
        raise ConfigError(
            f"--tasks {text!r}: names no task; leave --tasks out for all, or choose among "
            f"{', '.join(TASKS)}"
        )
    return cast("tuple[Task, ...]", tuple(names))


def make_parser() -> argparse.ArgumentParser:
    """Parser of this job's options."""
    parser = argparse.ArgumentParser(description="Predict for images with a run's weights.")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="JPEG or PNG files and folders")
    add_run_options(parser)
    parser.add_argument("--tasks", help="some of the run's tasks, such as normals,depth")
    parser.add_argument("--npy", action="store_true", help="write the exact arrays too")
    parser.add_argument(
        "--keep-aspect",
        action="store_true",
        help="resize the shorter side and pad, instead of stretching to the training size",
    )
    parser.add_argument(
        "--average-mirrored", action="store_true", help="predict the mirror image too and average"
    )
    return parser


if __name__ == "__main__":
    run_job(main)
