"""What earlier attempts at a unit left behind: deaths, samples under suspicion, finished images.

A process that a sample kills cannot report it. So after a unit's first death its samples are worked
on one at a time, and which one is written down before: ``suspects/<unit>.<attempt>.json``. Only the
driver, which sees how the attempt ended, turns that note into evidence: ``suspects/<unit>.json``.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipeline.make.isolate import Failure
from schemas.run_layout import (
    PARTIAL_DIR,
    SUSPECTS_DIR,
    suspects_path,
    unit_of_file,
    working_on_path,
)
from storage.files.inventory import remove_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from schemas.unit import Unit
    from storage.files.stores import RunStore

logger = logging.getLogger(__name__)

DEATHS_OF_A_KILLER = 2
"""Processes that must have died over a sample alone: one may have been killed by chance."""

MAX_KILLERS = 8
"""Samples of a unit that are told apart; with more the unit's attempts are counted again."""

DEADLY = frozenset({"generator_died", "timeout"})
"""Reasons of failed attempts whose process could not report what it had been working on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitHistory:
    """What earlier attempts at a unit left.

    Attributes:
        deaths: Attempts that ended with their process, through no fault of the machine.
        suspects: Key to the number of deaths while that sample alone was worked on.
        partials: Files with images that generators had made before they had to leave.
    """

    deaths: int = 0
    suspects: Mapping[str, int] = field(default_factory=dict)
    partials: tuple[str, ...] = ()

    @property
    def is_careful(self) -> bool:
        """Whether samples are to be worked on one at a time."""
        return self.deaths > 0

    @property
    def killers(self) -> dict[str, Failure]:
        """Samples that are not to be touched any more, and why."""
        return {
            key: Failure("killed_its_process", f"{deaths} processes died while they worked on it")
            for key, deaths in self.suspects.items()
            if deaths >= DEATHS_OF_A_KILLER
        }

    def after_death(self, working_on: Iterable[str]) -> UnitHistory:
        """The history after one more death.

        Args:
            working_on: Keys that the process worked on alone when it died, if that is known.
        """
        suspects = dict(self.suspects)
        for key in working_on:
            suspects[key] = suspects.get(key, 0) + 1
        return replace(self, deaths=self.deaths + 1, suspects=suspects)


class HistoryBook:
    """The histories of a run's units; kept in storage, for the next driver goes on with them.

    Not safe for use by several threads. A note that cannot be stored or read is told in the log:
    it costs attempts, never samples.

    Args:
        store: The run.
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

    def of(self, unit: Unit) -> UnitHistory | None:
        """What is known about a unit; None if it has no history."""
        return self._of.get(unit.unit_id)

    def begin(self, unit: Unit, attempt: str) -> UnitHistory | None:
        """What is known about a unit at which an attempt begins, whose own note will be removed."""
        known = self.of(unit)
        if known is not None and known.is_careful:
            self._files[unit.unit_id].add(working_on_path(unit.unit_id, attempt))
        return known

    def note_death(self, unit: Unit, attempt: str) -> bool:
        """Take note that an attempt ended with its process, and not with its machine.

        Returns:
            Whether it is known over which sample, and that helps: the next attempt knows more.
        """
        known = self._known(unit)
        path = working_on_path(unit.unit_id, attempt)
        working_on = _keys(_read_json(self._store, path, {path})) if known.is_careful else []
        history = known.after_death(working_on)
        self._of[unit.unit_id] = history
        evidence = {"deaths": history.deaths, "suspects": dict(history.suspects)}
        self._write(unit, suspects_path(unit.unit_id), evidence)
        return bool(working_on) and len(history.suspects) <= MAX_KILLERS

    def note_partial(self, unit: Unit, path: str) -> None:
        """Take note of images that an attempt left."""
        known = self._known(unit)
        self._of[unit.unit_id] = replace(known, partials=(*known.partials, path))
        self._files.setdefault(unit.unit_id, set()).add(path)

    def forget(self, unit: Unit) -> None:
        """Remove what was noted of a unit that is committed."""
        self._of.pop(unit.unit_id, None)
        for path in sorted(self._files.pop(unit.unit_id, ())):
            try:
                remove_file(self._store, path)
            except OSError as error:
                logger.warning("note_not_removed path=%s: %s", path, error)

    def _known(self, unit: Unit) -> UnitHistory:
        return self._of.get(unit.unit_id, UnitHistory())

    def _write(self, unit: Unit, path: str, value: Mapping[str, Any]) -> None:
        self._files.setdefault(unit.unit_id, set()).add(path)
        try:
            self._store.write_bytes(path, json.dumps(value).encode())
        except OSError as error:
            logger.warning("note_not_stored path=%s: %s", path, error)


class Care:
    """How carefully an attempt works, as its unit's history asks for.

    Attributes:
        partials: Files with images that earlier attempts have made.
        killers: Samples that are not to be touched, and why.
        is_careful: Whether samples are worked on one at a time.

    Args:
        store: The run.
        unit: The unit.
        attempt: Name of the attempt.
        history: What earlier attempts left; None if there were none.
    """

    def __init__(
        self, store: RunStore, unit: Unit, attempt: str, history: UnitHistory | None = None
    ) -> None:
        self._store = store
        self._path = working_on_path(unit.unit_id, attempt)
        history = history or UnitHistory()
        self.partials = history.partials
        self.killers = history.killers
        self.is_careful = history.is_careful

    def batch_size(self, usual: int) -> int:
        """Samples that may be worked on at a time."""
        return 1 if self.is_careful else usual

    def working_on(self, keys: Sequence[str]) -> None:
        """Write down what is worked on from now on; nothing with no keys.

        Raises:
            OSError: If the store cannot be reached.
        """
        if self.is_careful:
            self._store.write_bytes(self._path, json.dumps({"keys": list(keys)}).encode())


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
