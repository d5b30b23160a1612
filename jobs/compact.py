"""Put the manifests of many units together, so that listings stay short in a long run.

    python jobs/compact.py RUN [--units-per-file 256] [--all] [--dry-run]

Nothing is removed, and what is read stays the same; a run may go on meanwhile. jobs/gc.py removes
the units' own manifests later.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from runs.command_line import run_job
from runs.directory import read_config
from schemas.errors import ConfigError
from schemas.text import number_of
from storage.files.stores import open_store
from storage.manifests.compaction import UNITS_PER_FILE, compact, plan_compaction
from storage.manifests.places import find_units

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    """Compact the run that the command line names.

    Raises:
        ConfigError: If a file should hold no unit, or there is no run.
    """
    parsed = _parse(arguments)
    if parsed.units_per_file < 1:
        raise ConfigError(f"--units-per-file {parsed.units_per_file}: wanted at least 1")
    store = open_store(parsed.run)
    read_config(store)
    places = find_units(store)
    single = sum(place.part < 0 for place in places)
    print(f"{len(places)} units, {single} of them in files of their own")
    options = {"units_per_file": parsed.units_per_file, "keep_rest": not parsed.all}
    groups = plan_compaction(places, **options)
    if parsed.dry_run:
        units, files = sum(map(len, groups)), len(groups)
        print(f"would put {number_of(units, 'unit')} into {number_of(files, 'file')}")
        return
    written = compact(store, **options, on_file=lambda path, units: print(f"{path}: {units} units"))
    print(f"{number_of(written, 'file')} written; jobs/gc.py removes what they replace")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Put the manifests of many units together.")
    parser.add_argument("run", help="run directory, local or a URL")
    parser.add_argument("--units-per-file", type=int, default=UNITS_PER_FILE)
    parser.add_argument(
        "--all", action="store_true", help="compact the rest, too, that does not fill a file"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be done")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_job(main)
