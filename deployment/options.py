"""What commands share that use a run: which weights, where the results go."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from deployment.loaded_run import MAX_TRAINED_PIXELS, load_run
from schemas.errors import ConfigError
from storage.files.stores import RunStore, open_store

if TYPE_CHECKING:
    import argparse

    from deployment.loaded_run import LoadedRun


_MOST_DIGITS = 9


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which weights are used and where results go."""
    parser.add_argument("--run", required=True, help="run directory or exported folder, or a URL")
    parser.add_argument("--out", required=True, help="new or empty folder for the results")
    parser.add_argument(
        "--weights", default="final", help="final (default) or the number of a published version"
    )
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N, instead of the run's")
    parser.add_argument("--diffusion", help="where the run's backbone lies now")
    parser.add_argument(
        "--image-size", metavar="HxW", help="training images' size, if the source is not here"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="change a value that plays no part in training, such as method.taskdiffusion.steps=1; "
        "may be repeated",
    )


def open_run(parsed: argparse.Namespace) -> LoadedRun:
    """Load the run that the options of :func:`add_run_options` name."""
    return load_run(
        parsed.run,
        weights=parsed.weights,
        device=parsed.device,
        diffusion=parsed.diffusion,
        image_size=parse_size(parsed.image_size),
        overrides=tuple(parsed.set),
    )


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Read ``HEIGHTxWIDTH``.

    Raises:
        ConfigError: If it is something else.
    """
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise ConfigError(f"--image-size {text}: wanted HEIGHTxWIDTH in pixels, such as 480x640")
    height, width = (int(side[:_MOST_DIGITS]) for side in sides)
    if height * width > MAX_TRAINED_PIXELS:
        raise ConfigError(
            f"--image-size {text:.100}: wanted at most {MAX_TRAINED_PIXELS} pixels (such as "
            "2048x2048), which is far more than models are trained on; give the size of the "
            "training images"
        )
    return height, width


def open_output(url: str, *, marker: str | None = None) -> RunStore:
    """Open a folder to write to.

    Args:
        url: Folder or fsspec URL of ``--out``.
        marker: File that the job writes: a folder that holds it may be written to again.

    Raises:
        ConfigError: If it is a file, or holds something else.
    """
    store = open_store(url)
    if "://" not in store.url:
        _expect_folder(url, Path(store.url))
    found = store.list_dir("")
    if found and marker not in found:
        again = f", or one with {marker} that this job wrote before" if marker else ""
        raise ConfigError(
            f"--out {url}: wanted a new or empty folder{again}; "
            f"found {', '.join(found[:3])}{' …' if len(found) > 3 else ''}; name another folder"
        )
    return store


def _expect_folder(url: str, path: Path) -> None:
    """Check that a folder is there or can be made.

    Raises:
        ConfigError: If a file is in its place or above it, or nothing may be written there.
    """
    nearest = next(each for each in (path, *path.parents) if each.exists() or each.is_symlink())
    if not nearest.is_dir():
        found = "a file" if nearest.exists() else "a link that leads nowhere"
        where = "" if nearest == path else f" at {nearest}"
        raise ConfigError(f"--out {url}: wanted a folder, found {found}{where}; name another one")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(
            f"--out {url}: {nearest} cannot be written; let this user write there, or name another "
            "folder"
        )
