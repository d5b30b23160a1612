"""What has become of a run, from its storage: no cluster, no models."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, get_args

from rich.markup import escape
from rich.table import Column, Table

from pipeline.loop.plan import make_plan
from runs.directory import expect_run, read_config
from runs.results import read_results
from runs.state import ENDED, run_state
from schemas.errors import DamagedShardError, SampleError, UserError
from schemas.events import Event
from schemas.run_layout import CHECKPOINTS_DIR, EVENTS_DIR
from schemas.stages import Stage
from sources.open import open_run_source
from storage.files.inventory import list_files
from storage.manifests.table import ManifestReader
from storage.records.captions import captioned_shards
from storage.records.events import read_events
from storage.records.run_lock import Driver, current_drivers
from storage.records.weights import list_versions, read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

    from schemas.manifest import ManifestRow
    from schemas.weights import Series
    from storage.files.stores import RunStore

NEWEST_EVENTS = 8
FREQUENT_EVENTS = (Event.TRAINER_PROGRESS, Event.GENERATION_PROGRESS)


def read_status(store: RunStore) -> dict[str, Any]:
    """Collect what is known of a run, as JSON values.

    Returns:
        ``state``, ``drivers``, ``stage``, ``stages_ended``, ``captioned_shards``, ``units``,
        ``samples``, ``weights``, ``creator_weights``, ``rates``, ``training``, ``generation``,
        ``results`` and ``events``; None stands for what is not known.

    Raises:
        ConfigError: If there is no run.
    """
    expect_run(store)
    reader = ManifestReader(store)
    commits = reader.refresh()
    rows = [row for commit in commits for row in commit.rows]
    events = list(read_events(store))
    progress = _newest(events, Event.TRAINER_PROGRESS)
    ended = [stage for stage in get_args(Stage) if _has_ended(store, stage)]
    results = read_results(store)
    return {
        "run": store.url,
        "state": asdict(
            run_state(events, has_results=results is not None, heard_at=_heard_at(store))
        ),
        "drivers": [asdict(driver) for driver in current_drivers(store)],
        "stage": _stage(ended, progress, is_finished=results is not None),
        "stages_ended": ended,
        "captioned_shards": len(captioned_shards(store)),
        "units": {
            "committed": len(commits),
            "planned": count_planned(store),
            "torn": reader.torn,
            "torn_paths": reader.torn_paths,
        },
        "samples": count_rows(rows),
        "weights": _version_lines(store, "creation"),
        "creator_weights": _version_lines(store, "creator"),
        "rates": {
            "generated_per_s": generation_rate(rows),
            "trained_per_s": progress.get("images_per_s") if progress else None,
        },
        "training": progress,
        "generation": _newest(events, Event.GENERATION_PROGRESS),
        "results": results,
        "events": [e for e in events if e["event"] not in FREQUENT_EVENTS][-NEWEST_EVENTS:],
    }


def count_rows(rows: Iterable[ManifestRow]) -> dict[str, dict[str, int]]:
    """Count samples by status, the good ones by what made image and labels, the others by reason.

    Where no creator learns and all labels are predicted, that is the version of the labels alone.
    """
    statuses: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    versions: Counter[int] = Counter()
    creators: Counter[int] = Counter()
    origins: Counter[str] = Counter()
    for row in rows:
        statuses[row.status] += 1
        if row.status == "ok":
            versions[row.creation_version] += 1
            creators[row.creator_version] += 1
            origins[row.label_origin] += 1
        else:
            reasons[row.error_class] += 1
    counts = {
        "by_status": dict(sorted(statuses.items())),
        "by_reason": dict(reasons.most_common()),
        "by_creation_version": {str(v): n for v, n in sorted(versions.items())},
    }
    if creators.keys() - {-1}:
        counts["by_creator_version"] = {str(v): n for v, n in sorted(creators.items())}
    if origins.keys() - {"creation"}:
        counts["by_label_origin"] = dict(sorted(origins.items()))
    return counts


def generation_rate(rows: Sequence[ManifestRow]) -> float | None:
    """Good samples committed per second since the first unit; None before the second."""
    times = sorted(row.created_at for row in rows if row.status == "ok" and row.created_at)
    if not times or times[0] == times[-1]:
        return None
    seconds = datetime.fromisoformat(times[-1]) - datetime.fromisoformat(times[0])
    later = sum(time > times[0] for time in times)
    return round(later / seconds.total_seconds(), 3)


def count_planned(store: RunStore) -> int | None:
    """Units of the run's plan; None if its source cannot be opened from here."""
    try:
        config = read_config(store)
        source = open_run_source(config)
        return len(make_plan(config, source.shards("train")))
    except (UserError, OSError, SampleError):
        return None


def _heard_at(store: RunStore) -> datetime | None:
    """When the newest event was written, by the store's clock."""
    times = (file.modified_at for file in list_files(store, EVENTS_DIR))
    return max(filter(None, times), default=None)


def _newest(events: Sequence[dict[str, Any]], name: str) -> dict[str, Any] | None:
    return next((event for event in reversed(events) if event["event"] == name), None)


def _has_ended(store: RunStore, stage: str) -> bool:
    return store.exists(f"{CHECKPOINTS_DIR}/{stage}/final/final.json")


def _stage(ended: Sequence[str], progress: dict[str, Any] | None, *, is_finished: bool) -> str:
    if is_finished:
        return "finished"
    if progress and progress.get("stage") not in ended:
        return str(progress.get("stage"))
    return f"after {ended[-1]}" if ended else "before warm_up"


def _version_lines(store: RunStore, series: Series) -> list[dict[str, Any]]:
    return [_version_line(store, v, series) for v in list_versions(store, series=series)]


def _version_line(store: RunStore, version: int, series: Series) -> dict[str, Any]:
    try:
        manifest = read_manifest(store, version, series=series)
    except DamagedShardError:
        facts = ("step", "seen_images", "created_at")
        return {"version": version, **dict.fromkeys(facts), "stage": "damaged: see jobs/verify.py"}
    return {
        "version": manifest.version,
        "step": manifest.step,
        "seen_images": manifest.seen_images,
        "created_at": manifest.created_at,
        "stage": manifest.stage,
    }


def show_status(status: dict[str, Any], console: Console) -> None:
    """Print tables and the newest events."""
    console.print(overview(status))
    if resume := status["state"]["resume"]:
        # On a line of its own that is not wrapped, to be copied.
        console.print(f"resume with: {resume}", highlight=False, markup=False, soft_wrap=True)
    for title, counts in status["samples"].items():
        if counts:
            console.print(_counts_table(title.replace("_", " "), counts))
    for path in status["units"]["torn_paths"]:
        text = f"torn: {path}; the same command makes the unit again, and so does jobs/retry.py"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    for name, title in (("weights", "version"), ("creator_weights", "creator's version")):
        if status[name]:
            console.print(_weights_table(status[name], title))
    for event in status["events"]:
        fields = {k: v for k, v in event.items() if k not in {"time", "writer", "event"}}
        console.print(
            f"{event['time'][:19]} {event['writer']} {event['event']}: {_in_words(fields):.160}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def overview(status: dict[str, Any]) -> Table:
    """The state of the run and its newest figures."""
    # A long URL is folded, never cut.
    run = escape(str(status["run"]))
    table = Table(Column("run", no_wrap=True), Column(run, overflow="fold"))
    units, rates, training = status["units"], status["rates"], status["training"]
    state = status["state"]
    state_text = " · ".join(filter(None, (state["name"], state["reason"])))
    table.add_row("state", escape(state_text))
    for driver in status["drivers"]:
        who = "last driver" if state["name"] in ENDED else "driver"
        table.add_row(who, escape(str(Driver(**driver))))
    table.add_row("stage", status["stage"])
    if status["captioned_shards"]:
        table.add_row("source shards captioned", str(status["captioned_shards"]))
    planned = "?" if units["planned"] is None else units["planned"]
    torn = f" ({units['torn']} torn)" if units["torn"] else ""
    table.add_row("units committed / planned", f"{units['committed']} / {planned}{torn}")
    table.add_row("labelled pairs/s", _number(rates["generated_per_s"]))
    table.add_row("trained images/s", _number(rates["trained_per_s"]))
    if generation := status["generation"]:
        ready, all_of_them = generation.get("generators_ready"), generation.get("generators")
        table.add_row("generators ready / all", f"{ready} / {all_of_them}")
    if training:
        table.add_row("trainer step", f"{training.get('step', '?')} / {training.get('steps', '?')}")
        table.add_row("staleness, mean", _number(training.get("staleness_mean")))
        if "publish_lag" in training:
            table.add_row("publish lag", f"{training['publish_lag']} steps")
    return table


def _counts_table(title: str, counts: dict[str, int]) -> Table:
    table = Table(Column(title.removeprefix("by "), overflow="fold"), "samples")
    for name, count in counts.items():
        table.add_row(name, str(count))
    return table


def _weights_table(versions: list[dict[str, Any]], title: str) -> Table:
    titles = (title, "step", "images seen", "published", "stage")
    table = Table(*(Column(title, overflow="fold") for title in titles))
    for line in versions[-NEWEST_EVENTS:]:
        cells = ("version", "step", "seen_images", "created_at", "stage")
        table.add_row(*(str(line[cell]) for cell in cells))
    return table


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(one)}" for name, one in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, int | float) else "?"
