"""Export a run's creation weights as a folder that loads back on its own.

    python jobs/export.py --run runs/demo --out exported/demo [--with-backbone]

The folder holds weights, configuration, scores, a README and a reference to the backbone by name
and digest; ``--with-backbone`` copies the backbone in. ``load_run`` and the other jobs take it as
they take a run directory.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rich.console import Console

from deployment.export import export_run
from deployment.manifest import EXPORT_FILE
from deployment.options import open_output
from runs.command_line import run_job

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    """Export what the command line names."""
    parsed = make_parser().parse_args(arguments)
    out = open_output(parsed.out, marker=EXPORT_FILE)
    written = export_run(
        parsed.run,
        out.url,
        weights=parsed.weights,
        with_backbone=parsed.with_backbone,
        diffusion=parsed.diffusion,
    )
    backbone = "with its backbone" if parsed.with_backbone else f"backbone: {written.backbone}"
    Console().print(
        f"version {written.weights_version} of {written.source_run}, {backbone}: {out.url}",
        soft_wrap=True,
        highlight=False,
    )


def make_parser() -> argparse.ArgumentParser:
    """Parser of this job's options."""
    parser = argparse.ArgumentParser(description="Export a run's weights.")
    parser.add_argument("--run", required=True, help="run directory, local or a URL")
    parser.add_argument("--out", required=True, help="new or empty folder")
    parser.add_argument(
        "--weights", default="final", help="final (default) or the number of a published version"
    )
    parser.add_argument(
        "--with-backbone", action="store_true", help="copy the frozen models' files"
    )
    parser.add_argument("--diffusion", help="where the run's backbone lies now")
    return parser


if __name__ == "__main__":
    run_job(main)
