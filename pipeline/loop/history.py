"""The histories of a run's units: deaths, samples under suspicion, finished images.

Only the driver sees how an attempt ended. It turns what a careful attempt has written down
(:mod:`pipeline.make.steps`) into evidence: ``suspects/<unit>.json``.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.make.attempt import UnitHistory
from schemas.run_layout import (
    PARTIAL_DIR,
    SUSPECTS_DIR,
    suspects_path,
    unit_of_file,
    working_on_path,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipeline.make.attempt import Attempt
    from schemas.unit import Unit
    from storage.files.stores import RunStore

logger = logging.getLogger(__name__)

MAX_KILLERS = 8
"""Samples of a unit that are told apart; with more the unit's attempts are counted again."""

DEADLY = frozenset({"generator_died", "timeout"})
"""Reasons of failed attempts whose process could not report what it had been working on."""


class HistoryBook:
    """The histories of a run's units; kept in storage, for the next driver goes on with them.

    Not safe for use by several threads. A note that cannot be stored or read is told in the log:
    it costs attempts, never samples.
    """

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._of: dict[str, UnitHistory] = {}
        self._files: dict[str, set[str]] = {}
        for folder in (SUSPECTS_DIR, PARTIAL_DIR):
            for name in store.list_dir(folder):
                self._files.setdefault(unit_of_file(name), set()).add(f"{folder}/{name}")
        for unit_id, paths in self._files.items():
            evidence = _read_json(store, suspects_path(unit_id), paths)
            partials = tuple(sorted(p for p in paths if p.startswith(f"{PARTIAL_DIR}/")))
            self._of[unit_id] = replace(_history(evidence), partials=partials)

    def of(self, unit: Unit) -> UnitHistory:
        """What is known about a unit."""
        return self._of.get(unit.unit_id, UnitHistory())

    def begin(self, unit: Unit, attempt: Attempt) -> None:
        """Expect a note of an attempt that begins, to be removed when the unit is committed."""
        if attempt.history.is_careful:
            self._files[unit.unit_id].add(working_on_path(unit.unit_id, attempt.name))

    def note_death(self, unit: Unit, attempt: Attempt) -> bool:
        """Take note that an attempt ended with its process, and not with its machine.

        Returns:
            Whether it is known over which sample, and that helps: the next attempt knows more.
        """
        known = self.of(unit)
        path = working_on_path(unit.unit_id, attempt.name)
        working_on = _keys(_read_json(self._store, path, {path})) if known.is_careful else []
        history = known.after_death(working_on)
        self._of[unit.unit_id] = history
        evidence = {"deaths": history.deaths, "suspects": dict(history.suspects)}
        self._write(unit, suspects_path(unit.unit_id), evidence)
        return bool(working_on) and len(history.suspects) <= MAX_KILLERS

    def note_partial(self, unit: Unit, path: str) -> None:
        """Take note of images that an attempt left."""
        known = self.of(unit)
        self._of[unit.unit_id] = replace(known, partials=(*known.partials, path))
        self._files.setdefault(unit.unit_id, set()).add(path)

    def forget(self, unit: Unit) -> None:
        """Remove what was noted of a unit that is committed."""
        self._of.pop(unit.unit_id, None)
        for path in sorted(self._files.pop(unit.unit_id, ())):
            try:
                self._store.remove_file(path)
            except OSError as error:
                logger.warning("note_not_removed path=%s: %s", path, error)

    def _write(self, unit: Unit, path: str, value: Mapping[str, Any]) -> None:
        self._files.setdefault(unit.unit_id, set()).add(path)
        try:
            self._store.write_bytes(path, json.dumps(value).encode())
        except OSError as error:
            logger.warning("note_not_stored path=%s: %s", path, error)


def _history(evidence: Mapping[str, Any]) -> UnitHistory:
    deaths, suspects = evidence.get("deaths"), evidence.get("suspects")
    if not isinstance(deaths, int) or not isinstance(suspects, dict):
        return UnitHistory()
    counts = {str(key): count for key, count in suspects.items() if isinstance(count, int)}
    return UnitHistory(deaths=deaths, suspects=counts)


def _keys(note: Mapping[str, Any]) -> list[str]:
    keys = note.get("keys")
    return [str(key) for key in keys] if isinstance(keys, list) else []


def _read_json(store: RunStore, path: str, present: Iterable[str]) -> Mapping[str, Any]:
    """Read an object of the run if it is there; an empty one if it is damaged."""
    if path not in present:
        return {}
    try:
        found = json.loads(store.read_bytes(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("note_ignored path=%s: %s", path, error)
        return {}
    return found if isinstance(found, dict) else {}
