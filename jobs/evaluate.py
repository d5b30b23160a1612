"""Score the weights of a run on a split of its source.

python jobs/evaluate.py --run runs/demo [--weights final|all|VERSION] [--split test] [--json]

``--picture FILE.png`` draws the first images of the split beside their labels and predictions.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from rich.console import Console

from deployment.truth_sheet import TruthSheet
from runs.command_line import run_job
from runs.counting import counted
from runs.directory import read_config
from runs.results import classes_table, scores_table
from runs.scoring import class_scores, count_weights, score_floor, select_states
from sources.class_names import class_names_of
from sources.protocol import Split
from storage.files.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    """Score what the command line asks for, print a table and write JSON."""
    parsed = _make_parser().parse_args(arguments)
    store = open_store(parsed.run)
    config = read_config(store, tuple(parsed.set))
    states = select_states(store, parsed.weights)
    sheet = TruthSheet(list(states)[-1], class_names_of(config))
    with counted("images") as on_done:
        boards = count_weights(
            config, store, states, split=parsed.split, on_done=on_done, on_found=sheet.add
        )
    scores = {name: board.compute() for name, board in boards.items()}
    classes = class_scores(config, boards)
    if parsed.baseline:
        scores["constant"] = score_floor(config, split=parsed.split)
    if parsed.json:
        found = {"scores": scores, "iou_per_class": classes}
        print(json.dumps({"run": store.url, "split": parsed.split, **found}, indent=1))
    else:
        title = f"{config.run_id}, {parsed.split} split"
        console = Console()
        console.print(scores_table(scores, title=title))
        console.print(classes_table(classes, title=title))
    if parsed.picture:
        Path(parsed.picture).write_bytes(sheet.to_png())
    if parsed.out:
        Path(parsed.out).write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Score the weights of a run.")
    parser.add_argument("--run", required=True, help="run directory, local or a URL")
    parser.add_argument(
        "--weights", default="final", help="final (default), all, or the number of a version"
    )
    parser.add_argument("--split", default="test", choices=get_args(Split))
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="change one value of the run's configuration; may be repeated",
    )
    parser.add_argument("--baseline", action="store_true", help="score a constant answer as well")
    parser.add_argument("--out", help="write the scores to this JSON file")
    parser.add_argument(
        "--picture", metavar="FILE.png", help="draw the first images, their labels and predictions"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


if __name__ == "__main__":
    run_job(main)
