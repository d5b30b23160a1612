"""The units of a plan that may be worked on, found without looking through the plan."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.unit import Unit

Labels = tuple[int, int]
"""Newest committed round of a unit's images, and the version that labelled them."""


def is_ready(unit: Unit, labels: Labels | None, newest_version: int | None) -> bool:
    """Whether a unit may be worked on, capacity aside.

    A ``relabel`` unit may when the round before it is committed for its images and the newest
    version is above the one that made those labels: the same weights would give the same labels.
    A retried unit had been ready before.

    Args:
        labels: What is committed of its images; None if nothing is.
        newest_version: Newest published creation weights; None before the first.
    """
    if unit.kind == "synthesize" or unit.revision:
        return True
    if labels is None or newest_version is None:
        return False
    round_index, version = labels
    return round_index >= unit.round - 1 and newest_version > version


class UnitQueue:
    """Open units of a plan, and the first of them that is ready.

    Each call costs the logarithm of the plan's size at most. A unit lies in one of three places: a
    heap by its place in the plan (may be ready), under the version that has to be surpassed, or
    under the images whose round before is not committed. Whether it is ready is asked of
    :func:`is_ready` when it comes to the top: a place is a hint where to look, never the answer.

    Args:
        plan: All units, no two with one id.
    """

    def __init__(self, plan: Sequence[Unit]) -> None:
        self._units: list[Unit | None] = list(plan)
        self._places = {unit.unit_id: place for place, unit in enumerate(plan)}
        self._is_leased = bytearray(len(plan))
        self._is_filed = bytearray(b"\1" * len(plan))
        self._labels: dict[str, Labels] = {}
        self._heap: list[int] = []
        self._by_version: dict[int, list[int]] = {}
        self._by_images: dict[str, list[int]] = {}
        for place, unit in enumerate(plan):
            self._file(place, unit)

    def __len__(self) -> int:
        """Return the number of open units, leased ones too."""
        return len(self._places)

    def get(self, unit_id: str) -> Unit | None:
        """The open unit with this id; None if it is committed or of another plan."""
        place = self._places.get(unit_id)
        return None if place is None else self._units[place]

    def lease(self, unit: Unit) -> bool:
        """Take a unit out until it is released; returns whether it is open and was not leased."""
        place = self._places.get(unit.unit_id)
        if place is None or self._is_leased[place]:
            return False
        self._is_leased[place] = True
        return True

    def release(self, unit: Unit) -> bool:
        """Put a unit back; returns whether it is open and was leased."""
        place = self._places.get(unit.unit_id)
        if place is None or not self._is_leased[place]:
            return False
        self._is_leased[place] = False
        if not self._is_filed[place]:
            self._is_filed[place] = True
            heapq.heappush(self._heap, place)
        return True

    def remove(self, unit: Unit) -> bool:
        """Take a committed unit out for good; returns whether it was leased.

        Raises:
            KeyError: If it is not open.
        """
        place = self._places.pop(unit.unit_id)
        self._units[place] = None
        return bool(self._is_leased[place])

    def note_labels(self, image_unit_id: str, *, round_index: int, version: int) -> None:
        """Note that a round is committed for the images of a unit.

        A round that failed as a whole has no labels (version -1): those before it stay the newest.
        """
        last_round, last_version = self._labels.get(image_unit_id, (-1, -1))
        self._labels[image_unit_id] = (max(round_index, last_round), max(version, last_version))
        for place in self._by_images.pop(image_unit_id, ()):
            unit = self._units[place]
            if unit is not None:
                self._file(place, unit)

    def first_ready(self, newest_version: int | None) -> Unit | None:
        """The first unit of the plan that is open, not leased and ready; None if there is none."""
        if newest_version is not None:
            for version in [v for v in self._by_version if v < newest_version]:
                for place in self._by_version.pop(version):
                    heapq.heappush(self._heap, place)
        while self._heap:
            place = self._heap[0]
            unit = self._units[place]
            if unit is None or self._is_leased[place]:
                heapq.heappop(self._heap)
                self._is_filed[place] = False
            elif not is_ready(unit, self._labels.get(unit.image_unit_id), newest_version):
                heapq.heappop(self._heap)
                self._file(place, unit)
            else:
                return unit
        return None

    def _file(self, place: int, unit: Unit) -> None:
        """Put a unit where it will be found when it may have become ready."""
        labels = self._labels.get(unit.image_unit_id)
        if unit.kind == "synthesize" or unit.revision:
            heapq.heappush(self._heap, place)
        elif labels is not None and labels[0] >= unit.round - 1:
            self._by_version.setdefault(labels[1], []).append(place)
        else:
            self._by_images.setdefault(unit.image_unit_id, []).append(place)
