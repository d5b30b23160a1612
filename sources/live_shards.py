"""The list of synthetic shards as it grows while a run goes on."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from storage.manifest_table import ManifestReader, UnitCommit
from storage.weights_store import latest_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from schemas.config_training import TrainingSection
    from storage.filesystem import RunStore

logger = logging.getLogger(__name__)


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

    Not safe for use by several threads.
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
            store: The run.
            poll_s: Least time between two looks, in seconds.
            max_staleness: Greatest lag that is still drawn; None for no bound.
            staleness_decay: Factor in (0, 1] on the weight of a shard per version of lag.
            only_round: Leave out the labels of all other rounds; None: newer ones replace older.
            seed: Of the random order; give every rank another.
            clock: Seconds that only ever rise.
        """
        self._store = store
        self._reader = ManifestReader(store)
        self._poll_s = poll_s
        self._max_staleness = max_staleness
        self._decay = staleness_decay
        self._only_round = only_round
        self._random = random.Random(seed)
        self._clock = clock
        self._polled_at: float | None = None
        self._shards: dict[str, LiveShard] = {}
        self._drawable: list[LiveShard] = []
        self._newest: dict[str, tuple[int, int]] = {}
        self._served: dict[str, float] = {}
        self._stale_units: set[str] = set()
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
        return tuple(self._drawable)

    @property
    def num_samples(self) -> int:
        """Samples that can be drawn now."""
        return sum(shard.num_samples for shard in self._drawable)

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
        if not force and self._polled_at is not None and now - self._polled_at < self._poll_s:
            return 0
        self._polled_at = now
        try:
            commits = self._reader.refresh()
            newest = latest_version(self._store)
        except OSError as error:
            logger.warning("no look for new shards was possible (%s); the last list stays", error)
            return 0
        for commit in commits:
            if self._only_round in (None, commit.unit.round):
                self._add(commit)
        self._current_version = max(self._current_version, -1 if newest is None else newest)
        self._update_drawable()
        return len(commits)

    def draw(self) -> LiveShard | None:
        """Choose the next shard to read; None while there is none.

        A look for new shards comes first if one is due.
        """
        self.refresh()
        if not self._drawable:
            return None
        chosen = min(self._drawable, key=lambda shard: self._served[shard.maker])
        self._served[chosen.maker] += 1.0 / self._weight(chosen)
        return chosen

    def __iter__(self) -> Iterator[LiveShard]:
        """Draw until there is nothing to draw."""
        while (shard := self.draw()) is not None:
            yield shard

    def is_current(self, shard: LiveShard) -> bool:
        """Whether a shard drawn earlier is neither superseded, nor discarded, nor too stale."""
        return self._shards.get(shard.maker) is shard and not self._is_stale(shard)

    def lag(self, shard: LiveShard) -> int:
        """Versions published since a shard was labelled."""
        return max(0, self._current_version - shard.version)

    def discard(self, shard: LiveShard) -> None:
        """Never draw a shard again (its tar is damaged or gone); newer labels may replace it."""
        if self._shards.get(shard.maker) is shard:
            del self._shards[shard.maker]
            self._update_drawable()

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

    def _add(self, commit: UnitCommit) -> None:
        shard = _shard_of(commit)
        self._current_version = max(self._current_version, shard.version)
        age = (shard.version, commit.unit.round)
        if age < self._newest.get(shard.maker, (-1, -1)):
            return
        self._newest[shard.maker] = age
        self._shards[shard.maker] = shard
        least = min((self._served[each.maker] for each in self._drawable), default=0.0)
        joining = least + self._random.random()
        self._served[shard.maker] = max(self._served.get(shard.maker, 0.0), joining)

    def _is_stale(self, shard: LiveShard) -> bool:
        return self._max_staleness is not None and self.lag(shard) > self._max_staleness

    def _update_drawable(self) -> None:
        filled = [shard for shard in self._shards.values() if shard.num_samples]
        self._drawable = [shard for shard in filled if not self._is_stale(shard)]
        for shard in filled:
            if self._is_stale(shard) and shard.unit_id not in self._stale_units:
                self._stale_units.add(shard.unit_id)
                self._dropped_stale += shard.num_samples

    def _weight(self, shard: LiveShard) -> float:
        return float(max(self._decay ** self.lag(shard), 1e-9))


def _shard_of(commit: UnitCommit) -> LiveShard:
    unit, rows = commit.unit, commit.rows
    good = [row for row in rows if row.status == "ok"]
    return LiveShard(
        maker=unit.parent_unit_id or unit.unit_id,
        unit_id=unit.unit_id,
        version=max((row.creation_version for row in rows), default=-1),
        uri=good[0].tar_uri if good else "",
        sha256=good[0].tar_sha256 if good else "",
        keys=tuple(row.key for row in good),
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LiveShard:
    """One committed unit as the trainer sees it.

    Attributes:
        maker: The unit that made the images; the same for all labellings of them.
        unit_id: The unit that made these labels.
        version: Creation weights that made the labels.
        uri: Where the tar lies; empty if no sample of the unit is good.
        sha256: Digest of the tar.
        keys: Its good samples.
    """

    maker: str
    unit_id: str
    version: int
    uri: str
    sha256: str
    keys: tuple[str, ...]

    @property
    def num_samples(self) -> int:
        """Good samples in the tar."""
        return len(self.keys)
