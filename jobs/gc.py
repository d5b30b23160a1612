"""Remove what nobody needs any more from a run directory; without --delete it only lists it.

    python jobs/gc.py RUN [--older-than 24h]
    python jobs/gc.py RUN --older-than 24h --delete

Goes: tars that no manifest names, labels that newer labels of the same images replaced, weights
and checkpoints beyond the newest ones, unit manifests that jobs/compact.py has put together, and
what killed writers left. A run may go on meanwhile: age counts from the moment something was
replaced, by the store's own clock, and must exceed what a reader or an attempt may take.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from runs.command_line import run_job
from runs.directory import read_config
from runs.garbage import RunContent, find_garbage, limits_of
from schemas.errors import ConfigError
from schemas.run_layout import CHECKPOINTS_DIR
from storage.files.inventory import list_files, store_clock
from storage.files.stores import open_store
from storage.manifests.compaction import replaced_manifests
from storage.manifests.places import find_units
from storage.manifests.table import ManifestReader, collect_labels
from storage.records.weights import collect_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runs.garbage import Removal
    from storage.files.inventory import StoredFile
    from storage.files.stores import RunStore

LEAST_AGE = timedelta(hours=1)
_AGE = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SNAPSHOT = "checkpoint_manager_snapshot.json"


def main(arguments: Sequence[str]) -> None:
    """Print what could be removed, and remove it if ``--delete`` is given.

    Raises:
        ConfigError: If things that may be in use are asked for.
    """
    parsed, console = _parse(arguments), Console(highlight=False, soft_wrap=True)
    store = open_store(parsed.run)
    age = parse_age(parsed.older_than)
    if age < LEAST_AGE and not parsed.stopped:
        raise ConfigError(
            f"--older-than {parsed.older_than}: wanted at least 1h, for attempts and readers that "
            "are under way; add --stopped if no process works on this run"
        )
    config = read_config(store)
    now = store_clock(store) if parsed.delete else datetime.now(UTC)
    limits = limits_of(
        config,
        before=now - age,
        keep_rounds=parsed.keep_rounds,
        keep_versions=parsed.keep_versions,
        keep_checkpoints=parsed.keep_checkpoints,
    )
    content = read_content(store)
    removals = find_garbage(content, limits)
    if content.has_torn:
        console.print("some manifests cannot be read, so tars stay; see jobs/verify.py")
    show(removals, console, is_done=parsed.delete)
    if parsed.list:
        for path in (path for removal in removals for path in removal.paths):
            console.print(f"  {path}")
    if parsed.delete:
        remove(store, removals)
    elif removals:
        console.print("nothing was removed; add --delete")


def parse_age(text: str) -> timedelta:
    """Parse ``24h``, ``30m``, ``7d`` or ``90s``.

    Raises:
        ConfigError: If it is none of these.
    """
    match = _AGE.fullmatch(text)
    if match is None:
        raise ConfigError(f"--older-than {text}: wanted a number and s, m, h or d, such as 24h")
    return timedelta(**{_UNITS[match.group(2)]: int(match.group(1))})


def read_content(store: RunStore) -> RunContent:
    """List all of a run.

    The files are listed first: a tar that an attempt commits meanwhile is named by the manifests
    read afterwards.
    """
    files = list_files(store, "")
    reader = ManifestReader(store)
    commits = reader.refresh()
    written = {file.path: file.modified_at for file in files}
    places = find_units(store)
    return RunContent(
        files=files,
        commits=commits,
        committed_at={place.unit_id: written.get(place.path) for place in places},
        replaced_manifests=[
            (path, written.get(replaced_by)) for path, replaced_by in replaced_manifests(store)
        ],
        has_torn=reader.torn > 0,
        pinned_names=_names_in_snapshots(store, files),
    )


def remove(
    store: RunStore,
    removals: Sequence[Removal],
    *,
    before_each: Callable[[Removal], None] = lambda _: None,
) -> None:
    """Remove things, in their order; stopping anywhere leaves a run that reads as before.

    Args:
        removals: What :func:`runs.garbage.find_garbage` returned.
    """
    for removal in removals:
        before_each(removal)
        if removal.commit is not None:
            collect_labels(store, removal.commit, removal.paths)
        elif removal.kind == "old_weights":
            collect_weights(store, removal.version, removal.paths, series=removal.series)
        else:
            for path in removal.paths:
                store.remove_file(path)


def show(removals: Sequence[Removal], console: Console, *, is_done: bool) -> None:
    """Print a table of bytes per kind."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for removal in removals:
        counts[removal.kind] += len(removal.paths)
        sizes[removal.kind] += removal.size_bytes
    table = Table("removed" if is_done else "can be removed", "objects", "bytes")
    for kind, count in counts.items():
        table.add_row(kind.replace("_", " "), str(count), f"{sizes[kind]:,}")
    table.add_row("all", str(counts.total()), f"{sizes.total():,}")
    console.print(table)


def _names_in_snapshots(store: RunStore, files: Sequence[StoredFile]) -> frozenset[str]:
    """Checkpoints that Ray Train's own record of a stage names."""
    found: set[str] = set()
    for file in files:
        if file.path.startswith(f"{CHECKPOINTS_DIR}/") and file.name == _SNAPSHOT:
            text = store.read_bytes(file.path).decode(errors="replace")
            found.update(re.findall(r"checkpoint_[\w.-]+", text))
    return frozenset(found)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Remove what nobody needs any more from a run.")
    parser.add_argument("run", help="run directory, local or a URL")
    parser.add_argument("--older-than", default="24h", metavar="AGE", help="default: 24h")
    parser.add_argument("--delete", action="store_true", help="remove it; default: only say")
    parser.add_argument("--dry-run", action="store_true", help="only say, which is the default")
    parser.add_argument("--list", action="store_true", help="name every object")
    parser.add_argument(
        "--stopped", action="store_true", help="no process works on this run: any age will do"
    )
    parser.add_argument("--keep-rounds", nargs="*", type=int, default=[], metavar="ROUND")
    parser.add_argument(
        "--keep-versions", type=int, default=3, help="newest of a series; default: 3"
    )
    parser.add_argument("--keep-checkpoints", type=int, default=2, help="per stage; default: 2")
    parsed = parser.parse_args(arguments)
    if parsed.delete and parsed.dry_run:
        parser.error("--delete and --dry-run: choose one")
    return parsed


if __name__ == "__main__":
    run_job(main)
