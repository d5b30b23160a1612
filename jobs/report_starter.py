"""Measure the starter models on the shipped rooms: figures as JSON and a contact sheet as PNG.

Example:
    python jobs/report_starter.py --starter starter --rooms data/rooms --out docs/starter
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kit.starter.data import Rooms
from kit.starter.export import folder_bytes
from kit.starter.report import contact_sheet, make_report, parameter_counts
from perception.captioner import Blip2Captioner
from perception.diffusion.backbone import load_backbone
from runs.command_line import run_job

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str]) -> None:
    """Write `report.json` and `contact_sheet.png` to the output folder and print the figures."""
    options = _parser().parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    started = time.monotonic()
    backbone = load_backbone(options.starter / "diffusion", device=options.device)
    captioner = Blip2Captioner.load(options.starter / "captioner", device=options.device)
    figures, rooms = make_report(
        backbone,
        captioner,
        Rooms([str(options.rooms / "test-*.tar")]).first(options.limit),
        Rooms([str(options.rooms / "train-*.tar")]),
        num_steps=options.num_steps,
    )
    figures["parameters"] = parameter_counts(options.starter)
    figures["megabytes"] = round(folder_bytes(options.starter) / 1e6, 1)
    figures["seconds"] = round(time.monotonic() - started, 1)
    text = json.dumps(_rounded(figures), indent=2)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "report.json").write_text(text + "\n", encoding="utf-8")
    contact_sheet(rooms, count=options.rows).save(options.out / "contact_sheet.png")
    print(text)


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--starter", type=Path, default=Path("starter"), help="the models")
    parser.add_argument(
        "--rooms", type=Path, default=Path("data/rooms"), help="train and test tars"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for JSON and PNG")
    parser.add_argument("--num-steps", type=int, default=25, help="DDIM steps of a synthesis")
    parser.add_argument("--limit", type=int, default=256, help="held-out rooms to use")
    parser.add_argument("--rows", type=int, default=12, help="rows of the contact sheet")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


if __name__ == "__main__":
    run_job(main)
