"""Endless streams of single samples: shuffled real ones, and synthetic ones as they appear."""

from __future__ import annotations

import logging
import random
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from cachetools import FIFOCache, LRUCache

from schemas.errors import DamagedShardError, SampleError, SourceError
from schemas.sample import Sample, SourceShard, UnreadableSample
from schemas.systematic import FailureTally
from storage.samples.codecs import decode_sample
from storage.samples.shards import load_shard, read_tar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sources.live_shards import LiveShard, LiveShardList
    from sources.protocol import LabelledSource, Split
    from storage.files.stores import RunStore

logger = logging.getLogger(__name__)

DEFAULT_CACHE_BYTES = 512 * 2**20
_LABEL_BYTES_PER_PIXEL = 3 + 12 + 4 + 2 * 1 + 2 * 4
_MAX_OPEN_SHARDS = 16


class RealStream:
    """Shuffled samples of a split, without end.

    The order is a sequence of epochs, each another permutation; rank r of w takes positions r,
    r + w, r + 2w, …, so the ranks together see every sample once an epoch. If the decoded split
    exceeds the cache, shards are shuffled and samples mixed within as many shards as fit.
    """

    def __init__(
        self,
        source: LabelledSource,
        split: Split = "train",
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        captions: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare the order; nothing is read yet.

        Args:
            seed: Of the order; the same for all ranks.
            cache_bytes: Decoded samples kept in memory, at most, in bytes.
            captions: Key to text, for batches that have captions; None for others.

        Attributes:
            captions: As given; empty if there are none.

        Raises:
            SourceError: If the split is empty.
        """
        self._source = source
        self._shards = source.shards(split)
        self._num_samples = sum(len(shard.keys) for shard in self._shards)
        if not self._num_samples:
            raise SourceError(
                f"source {source.name} has no sample of split {split}; add one or choose another"
            )
        self._seed, self._rank, self._world = seed, rank, world
        self.captions = captions or {}
        height, width = source.image_size
        self._keys_cached = max(1, cache_bytes // (height * width * _LABEL_BYTES_PER_PIXEL))
        self._cache: FIFOCache[str, Sample] = FIFOCache(self._keys_cached)
        self._drawn = 0
        self._epoch = -1
        self._order: list[tuple[SourceShard, str]] = []
        self.unreadable: dict[str, UnreadableSample] = {}
        self._tally = FailureTally(total=self._num_samples)

    @property
    def num_samples(self) -> int:
        """Samples of an epoch, unreadable ones included."""
        return self._num_samples

    def __iter__(self) -> Iterator[Sample]:
        """Itself: one stream, one position."""
        return self

    def __next__(self) -> Sample:
        """The next readable sample of this rank.

        Raises:
            SourceError: If not one sample can be read, or (nearly) all fail the same way.
        """
        for _ in range(2 * self._num_samples):
            sample = self._read(*self._advance())
            if sample is not None:
                return sample
            self._expect_single_failures()
        first = next(iter(self.unreadable.values()))
        raise SourceError(
            f"source {self._source.name}: none of {len(self.unreadable)} samples can be read; "
            f"the first: {first.uri}: {first.reason}: {first.detail}"
        )

    def _expect_single_failures(self) -> None:
        # Several ranks read different samples: one that stopped would leave the others waiting.
        is_exempt = self._world > 1 or len(self.unreadable) == self._num_samples
        if not is_exempt and (cause := self._tally.systematic()):
            raise SourceError(f"source {self._source.name}: of the samples read {cause}")

    def state(self) -> dict[str, int]:
        """Position in the order, for a checkpoint."""
        return {"drawn": self._drawn, "world": self._world}

    def restore(self, state: dict[str, int]) -> None:
        """Go on from a position that :meth:`state` gave; the number of ranks may be another."""
        self._drawn = state["drawn"] * state.get("world", self._world) // self._world

    def _advance(self) -> tuple[SourceShard, str]:
        position = self._rank + self._drawn * self._world
        self._drawn += 1
        epoch, offset = divmod(position, self._num_samples)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._epoch_order(epoch)
        return self._order[offset]

    def _epoch_order(self, epoch: int) -> list[tuple[SourceShard, str]]:
        rng = np.random.default_rng([self._seed, epoch])
        shards = [self._shards[i] for i in rng.permutation(len(self._shards))]
        order: list[tuple[SourceShard, str]] = []
        window: list[tuple[SourceShard, str]] = []
        for shard in shards:
            if window and len(window) + len(shard.keys) > self._keys_cached:
                order += [window[i] for i in rng.permutation(len(window))]
                window = []
            window += [(shard, key) for key in shard.keys]
        return order + [window[i] for i in rng.permutation(len(window))]

    def _read(self, shard: SourceShard, key: str) -> Sample | None:
        if key in self.unreadable:
            return None
        if key not in self._cache:
            found = next(iter(self._source.read(shard, [key])))
            if isinstance(found, UnreadableSample):
                self.unreadable[key] = found
                self._tally.add(found.reason, f"{found.uri}: {found.detail}")
                logger.warning("%s is left out: %s: %s", found.uri, found.reason, found.detail)
                return None
            self._cache[key] = found
            self._tally.add()
        return self._cache[key]


class SyntheticStream:
    """Shuffled samples of committed shards, without end, as long as there are any.

    Up to sixteen shards are open at a time and samples are taken from them at random; a shard
    that is read to its end, superseded or too stale makes room for the next of the live list.
    Every tar's digest is checked once, when its bytes are read; decoded tars are kept up to a
    limit.
    """

    def __init__(
        self,
        store: RunStore,
        live: LiveShardList,
        *,
        seed: int,
        rank: int = 0,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        with_reliability: bool = False,
    ) -> None:
        """Prepare the pipeline; nothing is read yet.

        Args:
            live: Its list of shards, not shared with another stream.
            rank: This process; different ranks get different orders.
            cache_bytes: Decoded samples kept in memory, at most, in bytes.
            with_reliability: Read the reliability of the labels too.

        Attributes:
            live: As given.
            with_reliability: As given.
            unreadable: Failed attempts at a shard, by its URI.
        """
        self.live = live
        self.with_reliability = with_reliability
        self._store = store
        self._random = random.Random(seed * 1_000_003 + rank)
        self._decoded = DecodedShards(store, cache_bytes, with_reliability=with_reliability)
        self._open: list[OpenShard] = []
        self.unreadable: Counter[str] = Counter()

    def draw(self) -> tuple[Sample, LiveShard] | None:
        """A sample and the shard it came from; None while there is none."""
        self.live.refresh()
        self._open = [each for each in self._open if each.left and self.live.is_current(each.shard)]
        self._open_more()
        if not self._open:
            return None
        chosen = self._random.choices(self._open, [len(each.left) for each in self._open])[0]
        self.live.count_consumed(chosen.shard)
        return chosen.left.pop(), chosen.shard

    def _open_more(self) -> None:
        while len(self._open) < min(_MAX_OPEN_SHARDS, self.live.num_units):
            shard = self.live.draw()
            if shard is None:
                return
            try:
                samples = list(self._decoded.get(shard))
            except (DamagedShardError, SampleError) as error:
                self._note_unreadable(shard, error)
                self.live.discard(shard)
                continue
            except OSError as error:
                # The store may answer again: the shard stays in the list, another comes first.
                self._note_unreadable(shard, error)
                return
            self._random.shuffle(samples)
            self._open.append(OpenShard(shard, samples))

    def _note_unreadable(self, shard: LiveShard, error: Exception) -> None:
        if not self.unreadable[shard.uri]:
            logger.warning("shard %s cannot be read: %s", shard.uri, error)
        self.unreadable[shard.uri] += 1


class OpenShard:
    """A shard that is being read, with its samples that are still to come."""

    def __init__(self, shard: LiveShard, samples: list[Sample]) -> None:
        self.shard = shard
        self.left = samples


class DecodedShards:
    """Decoded tars, the least recently used dropped beyond a limit in bytes.

    Args:
        with_reliability: See :func:`decode_tar`, as for ``with_creator_maps``.
    """

    def __init__(
        self,
        store: RunStore,
        cache_bytes: int,
        *,
        with_reliability: bool = True,
        with_creator_maps: bool = False,
    ) -> None:
        self._store = store
        self._with_reliability = with_reliability
        self._with_creator_maps = with_creator_maps
        limit = max(1, cache_bytes)
        # A shard larger than the limit is held alone.
        self._held: LRUCache[str, list[Sample]] = LRUCache(
            limit, getsizeof=lambda samples: min(_num_bytes(samples), limit)
        )

    def get(self, shard: LiveShard) -> list[Sample]:
        """The good samples of a shard.

        Raises:
            DamagedShardError: If its bytes do not match digest or manifest.
            SampleError: If a sample cannot be decoded.
            FileNotFoundError: If the tar is gone.
        """
        samples = self._held.get(shard.uri)
        if samples is None:
            samples = self._held[shard.uri] = self._load(shard)
        return samples

    def _load(self, shard: LiveShard) -> list[Sample]:
        data = load_shard(self._store, shard.uri, shard.sha256)
        # The digest that the manifest names has been checked: the tar holds what was committed.
        samples = list(
            decode_tar(
                data,
                shard.uri,
                with_reliability=self._with_reliability,
                with_creator_maps=self._with_creator_maps,
            )
        )
        if len(samples) != shard.num_samples:
            raise DamagedShardError(
                f"{shard.uri}: wanted {shard.num_samples} samples, found {len(samples)}; "
                "the tar does not fit its manifest"
            )
        return samples


def decode_tar(
    data: bytes, uri: str, *, with_reliability: bool = True, with_creator_maps: bool = False
) -> Iterator[Sample]:
    """Decode all samples of a tar.

    Args:
        with_reliability: Decode the reliability of the labels too.
        with_creator_maps: Decode the maps of their creator too; training reads none.

    Yields:
        Its samples, in order.

    Raises:
        SampleError: If one cannot be decoded.
        DamagedShardError: If the bytes are no tar of plain files.
    """
    try:
        for key, members in read_tar(data):
            yield decode_sample(
                key,
                members,
                with_reliability=with_reliability,
                with_creator_maps=with_creator_maps,
            )
    except DamagedShardError as error:
        raise DamagedShardError(f"{uri}: {error}") from error


def _num_bytes(samples: list[Sample]) -> int:
    maps = ((s.labels, s.reliability, s.creator_maps) for s in samples)
    arrays = [array for each in maps for found in each for array in found.values()]
    return sum(int(array.nbytes) for array in (*arrays, *(s.image for s in samples)))
