"""The list of synthetic shards as it grows while a run goes on."""

from __future__ import annotations

import heapq
import logging
import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from storage.manifests.table import OutcomeReader
from storage.records.weights import latest_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from schemas.config_training import TrainingSection
    from storage.files.stores import RunStore
    from storage.manifests.unit_outcome import UnitOutcome

logger = logging.getLogger(__name__)

_LOOKING_SHARE = 0.1
_LONGEST_POLLS = 10
_QUIET_POLLS = 30


class Snapshot(TypedDict):
    """What a checkpoint remembers of the list; all counts are of samples.

    ``units`` are the ids of the units in the list, ``consumed_by_version`` what was drawn per
    version of creation weights, ``lag_sum`` the sum of version lags over what was drawn.
    """

    units: list[str]
    current_version: int
    consumed_by_version: dict[str, int]
    lag_sum: int
    dropped_stale: int


class LiveShardList:
    """The newest labels of every unit that made images, found by listing manifests.

    A unit that relabels takes the place of the unit whose images it labelled. Shards are drawn
    without end and in proportion to ``staleness_decay ** lag``, where the lag is the number of
    versions published since the shard was labelled; those with a greater lag than
    ``max_staleness`` are not drawn. Drawing is even: the shard that has been served least for
    its weight comes next, ties broken at random.

    A look costs what is new since the last one, and a draw the logarithm of the list's length.
    Where a store takes long to list, looks are rarer, up to ten times. Not safe for use by several
    threads.
    """

    def __init__(
        self,
        store: RunStore,
        *,
        poll_s: float = 2.0,
        max_staleness: int | None = None,
        staleness_decay: float = 1.0,
        only_round: int | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with an empty list; the first use looks for shards.

        Args:
            poll_s: Least time between two looks, in seconds.
            max_staleness: Greatest lag that is still drawn; None for no bound.
            staleness_decay: Factor in (0, 1] on the weight of a shard per version of lag.
            only_round: Leave out the labels of all other rounds; None: newer ones replace older.
            seed: Of the random order; give every rank another.
            clock: Seconds that only ever rise.
        """
        self._store = store
        self._reader = OutcomeReader(store)
        self._poll_s = poll_s
        self._max_staleness = max_staleness
        self._decay = staleness_decay
        self._only_round = only_round
        self._random = random.Random(seed)
        self._clock = clock
        self._poll_at = float("-inf")
        self._shards: dict[str, LiveShard] = {}
        self._drawable: dict[str, LiveShard] = {}
        self._num_samples = 0
        self._by_version: dict[int, set[str]] = {}
        self._newest: dict[str, tuple[int, int]] = {}
        self._served: dict[str, float] = {}
        self._order: list[tuple[float, str]] = []
        self._ordered: set[str] = set()
        self._current_version = -1
        self._dropped_stale = 0
        self._lag_sum = 0
        self._consumed: Counter[int] = Counter()

    @classmethod
    def from_config(
        cls, store: RunStore, training: TrainingSection, *, seed: int, rank: int = 0
    ) -> LiveShardList:
        """Make the list that the ``training`` section of a run asks for."""
        return cls(
            store,
            poll_s=training.poll_s,
            max_staleness=training.max_staleness,
            staleness_decay=training.staleness_decay,
            only_round=training.synthetic_round,
            seed=seed * 1_000_003 + rank,
        )

    @property
    def current_version(self) -> int:
        """Newest version of creation weights seen, in weights or in manifests; -1 if none."""
        return self._current_version

    @property
    def shards(self) -> tuple[LiveShard, ...]:
        """The shards that can be drawn now, in the order they were found."""
        return tuple(self._drawable.values())

    @property
    def num_samples(self) -> int:
        """Samples that can be drawn now."""
        return self._num_samples

    @property
    def num_units(self) -> int:
        """Shards that can be drawn now."""
        return len(self._drawable)

    def refresh(self, *, force: bool = False) -> int:
        """Look for new units and versions if the last look is ``poll_s`` ago.

        Whatever the store fails with, the last good list stays.

        Returns:
            The number of units found that were not known before.
        """
        now = self._clock()
        if not force and now < self._poll_at:
            return 0
        self._poll_at = now + self._poll_s
        try:
            found = self._reader.refresh(quiet_s=0.0 if force else _QUIET_POLLS * self._poll_s)
            newest = latest_version(self._store)
        except OSError as error:
            logger.warning("no look for new shards was possible (%s); the last list stays", error)
            return 0
        first = self._first()
        least = 0.0 if first is None else self._served[first.image_unit_id]
        for outcome in found:
            if self._only_round in (None, outcome.round):
                self._add(outcome, least)
        self._current_version = max(self._current_version, -1 if newest is None else newest)
        self._drop_stale()
        spent_s = self._clock() - now
        self._poll_at += min(spent_s / _LOOKING_SHARE, _LONGEST_POLLS * self._poll_s)
        return len(found)

    def draw(self) -> LiveShard | None:
        """Choose the next shard to read; None while there is none.

        A look for new shards comes first if one is due.
        """
        self.refresh()
        chosen = self._first()
        if chosen is None:
            return None
        self._served[chosen.image_unit_id] += 1.0 / self._weight(chosen)
        heapq.heapreplace(self._order, (self._served[chosen.image_unit_id], chosen.image_unit_id))
        return chosen

    def __iter__(self) -> Iterator[LiveShard]:
        """Draw until there is nothing to draw."""
        while (shard := self.draw()) is not None:
            yield shard

    def is_current(self, shard: LiveShard) -> bool:
        """Whether a shard drawn earlier is neither superseded, nor discarded, nor too stale."""
        return self._shards.get(shard.image_unit_id) is shard and not self._is_stale(shard)

    def lag(self, shard: LiveShard) -> int:
        """Versions published since a shard was labelled."""
        return max(0, self._current_version - shard.version)

    def discard(self, shard: LiveShard) -> None:
        """Never draw a shard again (its tar is damaged or gone); newer labels may replace it."""
        if self._shards.get(shard.image_unit_id) is shard:
            del self._shards[shard.image_unit_id]
            self._withdraw(shard.image_unit_id)

    def count_consumed(self, shard: LiveShard, samples: int = 1) -> None:
        """Note that samples of a shard were learnt from."""
        self._consumed[shard.version] += samples
        self._lag_sum += samples * self.lag(shard)

    def snapshot(self) -> Snapshot:
        """State and counts as plain values, for checkpoints and events."""
        return Snapshot(
            units=sorted(shard.unit_id for shard in self._shards.values()),
            current_version=self._current_version,
            consumed_by_version={str(v): n for v, n in sorted(self._consumed.items())},
            lag_sum=self._lag_sum,
            dropped_stale=self._dropped_stale,
        )

    def restore_counts(self, snapshot: Mapping[str, Any]) -> None:
        """Go on counting from a snapshot; the list itself comes from storage again."""
        consumed: Mapping[str, int] = snapshot["consumed_by_version"]
        self._consumed = Counter({int(version): n for version, n in consumed.items()})
        self._lag_sum = int(snapshot["lag_sum"])
        self._dropped_stale = int(snapshot["dropped_stale"])

    def _add(self, outcome: UnitOutcome, least: float) -> None:
        shard = _shard_of(outcome)
        self._current_version = max(self._current_version, shard.version)
        age = (shard.version, outcome.round)
        if age < self._newest.get(shard.image_unit_id, (-1, -1)):
            return
        self._newest[shard.image_unit_id] = age
        self._withdraw(shard.image_unit_id)
        self._shards[shard.image_unit_id] = shard
        joining = least + self._random.random()
        self._served[shard.image_unit_id] = max(self._served.get(shard.image_unit_id, 0.0), joining)
        if not shard.num_samples:
            return
        self._drawable[shard.image_unit_id] = shard
        self._num_samples += shard.num_samples
        self._by_version.setdefault(shard.version, set()).add(shard.image_unit_id)
        if shard.image_unit_id not in self._ordered:
            self._ordered.add(shard.image_unit_id)
            heapq.heappush(self._order, (self._served[shard.image_unit_id], shard.image_unit_id))

    def _withdraw(self, image_unit_id: str) -> int:
        """Draw a shard no more, for now; returns its samples, 0 if it was not drawn before."""
        shard = self._drawable.pop(image_unit_id, None)
        if shard is None:
            return 0
        self._num_samples -= shard.num_samples
        self._by_version[shard.version].discard(image_unit_id)
        return shard.num_samples

    def _first(self) -> LiveShard | None:
        """The shard that was served least for its weight; None if none can be drawn."""
        while self._order:
            served, image_unit_id = self._order[0]
            shard = self._drawable.get(image_unit_id)
            if shard is None:
                heapq.heappop(self._order)
                self._ordered.discard(image_unit_id)
            elif served < self._served[image_unit_id]:
                heapq.heapreplace(self._order, (self._served[image_unit_id], image_unit_id))
            else:
                return shard
        return None

    def _drop_stale(self) -> None:
        if self._max_staleness is None:
            return
        oldest = self._current_version - self._max_staleness
        for version in [each for each in self._by_version if each < oldest]:
            for image_unit_id in sorted(self._by_version[version]):
                self._dropped_stale += self._withdraw(image_unit_id)
            del self._by_version[version]

    def _is_stale(self, shard: LiveShard) -> bool:
        return self._max_staleness is not None and self.lag(shard) > self._max_staleness

    def _weight(self, shard: LiveShard) -> float:
        return float(max(self._decay ** self.lag(shard), 1e-9))


def _shard_of(outcome: UnitOutcome) -> LiveShard:
    return LiveShard(
        image_unit_id=outcome.image_unit_id,
        unit_id=outcome.unit_id,
        version=outcome.creation_version,
        uri=outcome.tar_uri,
        sha256=outcome.tar_sha256,
        num_samples=outcome.num_kept,
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LiveShard:
    """One committed unit as the trainer sees it.

    Attributes:
        image_unit_id: The unit that made the images; the same for all labellings of them.
        unit_id: The unit that made these labels.
        version: Creation weights that made the labels.
        uri: Where the tar lies; empty if no sample of the unit is good.
        sha256: Digest of the tar.
        num_samples: Good samples in the tar.
    """

    image_unit_id: str
    unit_id: str
    version: int
    uri: str
    sha256: str
    num_samples: int
