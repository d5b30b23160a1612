"""Predict for photographs of any size with the creation weights of a run.

    python jobs/predict.py --run runs/demo photograph.jpg photographs/ --out predictions

Every image gives ``<name>.<task>.png`` in the encodings of docs/data_format.md at its own size,
``<name>.<task>_confidence.png``, and ``<name>.overview.png`` to look at; ``--npy`` adds the exact
arrays. An image that cannot be read is named, the others go on, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from rich.console import Console
from rich.text import Text

from deployment.inputs import as_rgb, find_images
from deployment.options import add_run_options, open_run
from deployment.output_folder import open_output
from deployment.overview import draw_overview
from runs.command_line import run_job
from schemas.errors import ConfigError, RunFailedError, SampleError
from schemas.sample import CONFIDENCE_MEMBERS, LABEL_MEMBERS, TASKS
from storage.samples.codecs import encode_confidence_png, encode_label

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from deployment import LoadedRun
    from deployment.predictor import Prediction
    from schemas.sample import Task
    from storage.files.stores import RunStore

INDEX_FILE = "predictions.json"
MAX_HELD_BYTES = 64 * 2**20
"""Images read at a time, decoded; their predictions take about ten times as much."""


def main(arguments: Sequence[str]) -> None:
    """Predict what the command line asks for.

    Raises:
        RunFailedError: If an image could not be read; the others are done.
    """
    parsed = make_parser().parse_args(arguments)
    files = find_images(parsed.images)
    tasks = parse_tasks(parsed.tasks)
    out = open_output(parsed.out, marker=INDEX_FILE)
    run = open_run(parsed)
    console = Console()
    started_s = time.monotonic()
    entries = predict_files(run, files, out, tasks=tasks, parsed=parsed, console=console)
    write_index(out, run, entries)
    failed = [entry for entry in entries if "error" in entry]
    seconds = time.monotonic() - started_s
    console.print(
        f"{len(entries) - len(failed)} of {len(entries)} images in {seconds:.1f} s: {out.url}",
        soft_wrap=True,
    )
    if failed:
        raise RunFailedError(
            f"{len(failed)} of {len(entries)} images could not be read; {out.uri(INDEX_FILE)} "
            "lists them with the reasons"
        )


def predict_files(
    run: LoadedRun,
    files: dict[str, Path],
    out: RunStore,
    *,
    tasks: Sequence[Task],
    parsed: argparse.Namespace,
    console: Console,
) -> list[dict[str, Any]]:
    """Predict for files, a few at a time, and write the results.

    Returns:
        An entry for each file: its name, path and size, or the ``error`` why it was left out.
    """
    entries: list[dict[str, Any]] = []
    for together in read_together(files, entries, run.predictor.batch_size, console):
        found = run.predictor.predict(
            list(together.values()),
            seeds=[run.seed_of(files[name].name) for name in together],
            tasks=tasks,
            keeps_aspect=parsed.keep_aspect,
            averages_mirrored=parsed.average_mirrored,
        )
        for (name, image), each in zip(together.items(), found, strict=True):
            for member, data in encode_prediction(image, each, with_npy=parsed.npy):
                out.write_bytes(f"{name}.{member}", data)
    return entries


def read_together(
    files: dict[str, Path], entries: list[dict[str, Any]], most: int, console: Console
) -> Iterator[dict[str, NDArray[np.uint8]]]:
    """Read images, as many at a time as memory holds with their predictions.

    Args:
        files: Name to file.
        entries: Gets an entry for each file, with ``error`` if it cannot be read.
        most: Images at a time.
        console: Told what cannot be read.

    Yields:
        Name to uint8 RGB [H, W, 3].
    """
    held: dict[str, NDArray[np.uint8]] = {}
    for name, file in files.items():
        entry: dict[str, Any] = {"name": name, "file": str(file)}
        entries.append(entry)
        try:
            image = as_rgb(file)
        except (SampleError, OSError) as error:
            entry["error"] = str(error)
            # A name may hold what steers a terminal, and what rich takes for markup.
            named = str(file) if str(file).isprintable() else ascii(str(file))
            line = Text(f"left out: {named}: {error}", style="red")
            console.print(line, soft_wrap=True)
            continue
        entry["height"], entry["width"] = image.shape[:2]
        held[name] = image
        if len(held) == most or sum(each.size for each in held.values()) >= MAX_HELD_BYTES:
            yield held
            held = {}
    if held:
        yield held


def encode_prediction(
    image: NDArray[np.uint8], found: Prediction, *, with_npy: bool
) -> Iterator[tuple[str, bytes]]:
    """Encode what is written for one image.

    Args:
        image: uint8 RGB [H, W, 3].
        found: What was predicted for it.
        with_npy: Whether the exact arrays are wanted too.

    Yields:
        Last part of the file's name, and its content.
    """
    for task, label in found.items():
        yield LABEL_MEMBERS[task], encode_label(label, task)
        sure = found.confidence[task]
        yield CONFIDENCE_MEMBERS[task], encode_confidence_png(sure, task=task)
        if with_npy:
            yield f"{task}.npy", _npy(label)
            yield f"{task}_confidence.npy", _npy(sure)
    buffer = io.BytesIO()
    draw_overview(image, found).save(buffer, format="PNG")
    yield "overview.png", buffer.getvalue()


def write_index(out: RunStore, run: LoadedRun, entries: list[dict[str, Any]]) -> None:
    """Write which images were predicted, by which weights."""
    content = {
        "run": run.store.url,
        "creation_version": run.weights.version,
        "creation_sha256": run.weights.sha256,
        "diffusion_base_hash": run.predictor.backbone.model_id,
        "tasks": run.tasks,
        "images": entries,
    }
    out.write_bytes(INDEX_FILE, (json.dumps(content, indent=1) + "\n").encode())


def parse_tasks(text: str | None) -> tuple[Task, ...]:
    """Read ``normals,depth``; empty stands for all tasks of the run.

    Raises:
        ConfigError: If there is no such task.
    """
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        raise ConfigError(
            f"--tasks {text}: {', '.join(unknown)} is no task; choose among {', '.join(TASKS)}"
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


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


if __name__ == "__main__":
    run_job(main)
