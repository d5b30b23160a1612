"""Check all of a run against what it says about itself; reads its storage, needs no cluster.

    python jobs/verify.py RUN [--workers 4] [--json]

Reads every manifest, every shard that one names (digest, every member, places), every version of
weights, the captions and the ends of the training stages. Prints what is wrong, by file, with what
to do. Exit code 0: all is well; 1: something is wrong. Tars that no manifest names are harmless
and only counted.
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from runs.command_line import run_job
from runs.directory import read_config
from runs.verification import (
    MAKE_AGAIN,
    RESTORE,
    KeysOfRounds,
    NamedWeights,
    Problem,
    check_rows,
    check_shards,
)
from schemas.digest import sha256_of
from schemas.errors import ConfigError, DamagedShardError, RunFailedError
from schemas.run_layout import CHECKPOINTS_DIR, SHARDS_DIR, captions_path
from schemas.text import number_of
from storage.files.inventory import list_files
from storage.files.stores import open_store
from storage.manifests.table import iterate_units
from storage.records.captions import damaged_shards, read_shard_captions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from storage.files.stores import RunStore
    from storage.manifests.unit_outcome import UnitCommit

_TORN_PART = (
    f"{RESTORE}, or start the run's command again: units that lie nowhere else are made again"
)
_END_OF_STAGE = "final.json"


def main(arguments: Sequence[str]) -> None:
    """Verify the run that the command line names.

    Raises:
        RunFailedError: If something is wrong.
    """
    parsed = _parse(arguments)
    store = open_store(parsed.run)
    read_config(store)
    run = Verification(store)
    problems = []
    for problem in run.problems(workers=parsed.workers):
        problems.append(problem)
        if not parsed.json:
            print(f"{problem.path}: {problem.text}\n    {problem.remedy}")
    if parsed.json:
        print(json.dumps({**run.counts(), "problems": list(map(asdict, problems))}, indent=1))
    else:
        print(run.summary())
    if problems:
        raise RunFailedError(f"{number_of(len(problems), 'problem')} in {store.url}")


class Verification:
    """One check of a whole run; units are read and forgotten one after the other."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._units = 0
        self._samples = 0
        self._weights = NamedWeights(store)
        self._named: set[str] = set()
        self._keys = KeysOfRounds()
        self._captions: Callable[[str], frozenset[str]] = lru_cache(maxsize=4)(self._read_captions)
        self._damaged_captions: set[str] = set()
        self._unnamed: list[int] = []

    def problems(self, *, workers: int) -> Iterator[Problem]:
        """Find what is wrong.

        Yields:
            Problems, as they are found.
        """
        # What is listed first may be named by a manifest that is committed meanwhile.
        tars = list_files(self._store, SHARDS_DIR)
        yield from self._weights.check_published()
        yield from self._check_captions()
        with ThreadPoolExecutor(workers, thread_name_prefix="verify") as pool:
            running: deque[Future[list[Problem]]] = deque()
            for found in self._check_units():
                if isinstance(found, Problem):
                    yield found
                    continue
                running.append(pool.submit(check_shards, self._store, found))
                # As many units as threads are held, no more.
                while len(running) > workers:
                    yield from running.popleft().result()
            while running:
                yield from running.popleft().result()
        yield from self._check_ends()
        self._unnamed = [file.size_bytes for file in tars if file.path not in self._named]

    def counts(self) -> dict[str, Any]:
        """What was checked, as JSON values."""
        creator = self._weights.count("creator")
        return {
            "run": self._store.url,
            "units": self._units,
            "samples": self._samples,
            "shards": len(self._named),
            "versions": self._weights.count("creation"),
            **({"creator_versions": creator} if creator else {}),
            "unnamed_objects": len(self._unnamed),
            "unnamed_bytes": sum(self._unnamed),
        }

    def summary(self) -> str:
        """The same in one line."""
        text = (
            f"{number_of(self._units, 'unit')}, {number_of(self._samples, 'sample')} in "
            f"{number_of(len(self._named), 'shard')}, "
            f"{number_of(self._weights.count('creation'), 'version')} of weights"
        )
        if creator := self._weights.count("creator"):
            text += f", {number_of(creator, 'version')} of the creator's"
        if self._unnamed:
            text += (
                f"; {number_of(len(self._unnamed), 'object')} of {sum(self._unnamed)} bytes in "
                f"{SHARDS_DIR} that no manifest names: harmless, jobs/gc.py removes them"
            )
        return text

    def _check_units(self) -> Iterator[Problem | UnitCommit]:
        """Problems of the rows, and the units whose shards are to be read."""
        for place, commit in iterate_units(self._store):
            if isinstance(commit, DamagedShardError):
                remedy = MAKE_AGAIN.format(unit=place.unit_id) if place.unit_id else _TORN_PART
                yield Problem(place.path, str(commit), remedy)
                continue
            self._units += 1
            good = [row for row in commit.rows if row.status == "ok"]
            self._samples += len(good)
            self._named.update(row.tar_uri for row in good)
            yield from check_rows(commit, path=place.path)
            yield from self._check_references(commit, place.path)
            yield commit

    def _check_references(self, commit: UnitCommit, path: str) -> Iterator[Problem]:
        unit = commit.unit
        remedy = MAKE_AGAIN.format(unit=unit.unit_id)
        for text in self._keys.problems(commit):
            yield Problem(path, text, remedy)
        for text, folder in self._weights.problems(commit):
            yield Problem(path, text, f"{RESTORE}: the folder {folder}")
        captioned = {row.source_key for row in commit.rows if row.caption_model}
        is_readable = unit.source_shard not in self._damaged_captions
        if captioned and unit.kind == "synthesize" and is_readable:
            missing = captioned - self._captions(unit.source_shard)
            if missing:
                text = (
                    f"no caption of {number_of(len(missing), 'source key')}, first {min(missing)}"
                )
                yield Problem(captions_path(unit.source_shard), text, RESTORE)

    def _read_captions(self, shard: str) -> frozenset[str]:
        return frozenset(read_shard_captions(self._store, shard))

    def _check_captions(self) -> Iterator[Problem]:
        self._damaged_captions = damaged_shards(self._store)
        for shard in sorted(self._damaged_captions):
            remedy = f"{RESTORE}, or run jobs/generate.py: it captions that source shard again"
            yield Problem(captions_path(shard), "captions that cannot be read", remedy)

    def _check_ends(self) -> Iterator[Problem]:
        """Both sets of weights at the end of each stage."""
        for stage in self._store.list_dir(CHECKPOINTS_DIR):
            folder = f"{CHECKPOINTS_DIR}/{stage}/final"
            path = f"{folder}/{_END_OF_STAGE}"
            if not self._store.exists(path):
                continue
            try:
                digests: dict[str, str] = json.loads(self._store.read_bytes(path))["sha256"]
            except (ValueError, KeyError, TypeError) as error:
                yield Problem(path, f"not the end of a stage ({error!r})", RESTORE)
                continue
            for name, wanted in digests.items():
                yield from self._check_digest(f"{folder}/{name}", wanted)

    def _check_digest(self, path: str, wanted: str) -> Iterator[Problem]:
        try:
            found = sha256_of(self._store.read_bytes(path))
        except FileNotFoundError:
            found = "no file"
        if found != wanted:
            yield Problem(path, f"wanted sha256 {wanted}, found {found}", RESTORE)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Check a run against its manifests.")
    parser.add_argument("run", help="run directory, local or a URL")
    parser.add_argument("--workers", type=int, default=4, help="threads that read; default: 4")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parsed = parser.parse_args(arguments)
    if parsed.workers < 1:
        raise ConfigError(f"--workers {parsed.workers}: wanted at least 1")
    return parsed


if __name__ == "__main__":
    run_job(main)
