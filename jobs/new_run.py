"""Begin with a folder of images and label maps: say what it holds, and write what a run needs.

    python jobs/new_run.py /data/photographs --out my_run

Shows what was understood, in a table and in a picture, and writes a description and a configuration
for this machine; the images are only read.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from runs.command_line import run_job
from runs.new_run import (
    DESCRIPTION_FILE,
    PICTURE_FILE,
    Machine,
    check_new_run,
    describe_fit,
    describe_limit,
    expect_new,
    remove_new_run,
    write_new_run,
)
from runs.understood import draw_understood
from schemas.config_file import load_config
from sources.recognise.folder import Recognised, recognise_folder

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    """Look, say what was understood, write, check, and name the next command."""
    parser = argparse.ArgumentParser(description="Write description and configuration of a folder.")
    parser.add_argument("folder", type=Path, help="images, and their label maps beside them")
    parser.add_argument("--out", type=Path, help="new folder for what is written; default NAME_run")
    parsed = parser.parse_args(arguments)
    console, root = Console(), parsed.folder.expanduser().resolve()
    if parsed.out and root.is_dir():
        expect_new(parsed.out, root)
    found = recognise_folder(root)
    console.print(_table(found))
    for text in filter(None, (*found.said, describe_fit(found), describe_limit(found))):
        console.print(f"- {text}", highlight=False, markup=False, soft_wrap=True)
    out = parsed.out or Path(f"{found.name}_run")
    path = write_new_run(found, out, Machine.here())
    try:
        _check(path, console)
    except BaseException:
        # The mended command is to find no file of this one.
        remove_new_run(out)
        raise
    console.print(f"wrote {path} and {out / DESCRIPTION_FILE}", soft_wrap=True, highlight=False)
    command = f".venv/bin/python jobs/self_improve.py --config {path}"
    for text in (f"next: {command} --dry-run", f"then: {command}"):
        console.print(text, soft_wrap=True, highlight=False, markup=False)


def _check(path: Path, console: Console) -> None:
    config = load_config(path)
    if picture := draw_understood(config):
        shown = path.parent / PICTURE_FILE
        shown.write_bytes(picture)
        text = f"look at {shown}: are these the labels of these images?"
        console.print(text, soft_wrap=True, highlight=False)
    for line in check_new_run(config).lines(with_notes=False):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _table(found: Recognised) -> Table:
    table = Table(title=f"{found.root}", title_justify="left")
    for name in ("files", "number", "understood as"):
        table.add_column(name, overflow="fold", justify="right" if name == "number" else "left")
    for collection, content in found.found:
        task = content.task or content.what
        is_used = found.uses(collection)
        doubt = f"\n[yellow]{content.doubt}[/yellow]" if content.doubt and is_used else ""
        text = f"[bold]{task}[/bold]: {content.said}" if is_used else f"not used: {content.said}"
        others = f" (and {', '.join(more)})" if (more := collection.other_suffixes) else ""
        table.add_row(collection.name + others, str(collection.count), text + doubt)
    return table


if __name__ == "__main__":
    run_job(main)
