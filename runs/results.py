"""Scores of a run: what goes into results.json and the table at the end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.table import Table

from schemas.errors import DamagedShardError
from schemas.run_layout import RESULTS_FILE
from schemas.stages import RESULT_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from storage.files.stores import RunStore

COLUMNS = {
    "normals": (
        ("mean_deg", "mean °", ".2f"),
        ("median_deg", "median °", ".2f"),
        ("rmse_deg", "RMSE °", ".2f"),
        ("pct_11_25", "% < 11.25°", ".1f"),
        ("pct_22_5", "% < 22.5°", ".1f"),
        ("pct_30", "% < 30°", ".1f"),
    ),
    "depth": (("rmse_m", "RMSE m", ".3f"), ("abs_rel", "AbsRel", ".3f"), ("delta_1", "δ1", ".1%")),
    "semseg": (("miou", "mIoU", ".1%"), ("pixel_accuracy", "accuracy", ".1%")),
    "human_parts": (("miou", "parts mIoU", ".1%"), ("pixel_accuracy", "parts accuracy", ".1%")),
    "saliency": (("max_f", "maxF", ".1%"),),
    "boundaries": (("ods_f", "odsF", ".1%"),),
}


def write_results(store: RunStore, results: Mapping[str, Any]) -> None:
    """Write results.json.

    Args:
        store: The run.
        results: ``warm_up``, ``real_only_control`` and ``self_improved`` hold metrics by task;
            ``counts`` and ``seconds`` say what it took.
    """
    store.write_bytes(RESULTS_FILE, (json.dumps(results, indent=1) + "\n").encode())


def read_results(store: RunStore) -> dict[str, Any] | None:
    """Content of results.json; None if the run has not ended.

    Raises:
        DamagedShardError: If the file holds something else than :func:`write_results` writes.
    """
    if not store.exists(RESULTS_FILE):
        return None
    try:
        found = json.loads(store.read_bytes(RESULTS_FILE))
    except (ValueError, RecursionError) as error:
        raise DamagedShardError(_not_results(store, str(error))) from error
    rows = [found[row] for row in RESULT_ROWS if row in found] if isinstance(found, dict) else []
    if not rows or not all(isinstance(row, dict | None) for row in rows):
        raise DamagedShardError(_not_results(store, repr(found)[:80]))
    return dict(found)


def _not_results(store: RunStore, found: str) -> str:
    return (
        f"{store.uri(RESULTS_FILE)}: wanted the scores of a run, found {found}; remove the file, "
        "and the command that the run was started with scores the run again"
    )


def relative_gain(results: Mapping[str, Any], task: str, metric: str) -> float | None:
    """How much lower ``self_improved`` is than ``real_only_control``, as a share of the latter."""
    control = results.get("real_only_control")
    if not control:
        return None
    before = float(control[task][metric])
    return (before - float(results["self_improved"][task][metric])) / before


def results_table(results: Mapping[str, Any]) -> Table:
    """Table of the scored weights, a row each."""
    tasks = list(next(results[row] for row in RESULT_ROWS if results.get(row)))
    columns = [(task, *column) for task in tasks for column in COLUMNS[task]]
    table = Table("weights", *(header for _, _, header, _ in columns), title="test split")
    for row in RESULT_ROWS:
        if results.get(row):
            cells = [format(results[row][task][key], form) for task, key, _, form in columns]
            table.add_row(row, *cells)
    return table
