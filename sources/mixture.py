"""Batches of real and synthetic samples at an exact ratio."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from sources.augment import augment_sample
from sources.batches import REAL_VERSION, Batch, collate, hflip_sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from schemas.config_training import AugmentationSection, PixelWeighting
    from schemas.sample import Sample, Task
    from sources.streams import RealStream, SyntheticStream


class Mixture:
    """Endless batches with a stated share of real samples.

    Of n batches that could be mixed, ``floor(n · share · batch_size)`` samples are real; where
    ``share · batch_size`` is whole, each batch has exactly that many. Real ones come first in a
    batch. While there is no synthetic sample, batches are all real.
    """

    def __init__(
        self,
        real: RealStream,
        synthetic: SyntheticStream | None = None,
        *,
        real_fraction: float,
        batch_size: int,
        tasks: Sequence[Task],
        hflip: bool = False,
        augmentation: AugmentationSection | None = None,
        seed: int = 0,
    ) -> None:
        """Combine two streams.

        Args:
            synthetic: Synthetic samples; None for real ones alone. If they come with reliability,
                it weighs their pixels.
            real_fraction: Share of real samples, in (0, 1].
            batch_size: Samples of a batch, on this rank.
            hflip: Whether to mirror each sample with probability 1/2.
            augmentation: What else is done to each sample, real or synthetic; None for nothing.
            seed: Of mirroring and augmentation; give every rank another.
        """
        self.real = real
        self.synthetic = synthetic
        self._real_per_batch = _exact(real_fraction) * batch_size
        self._batch_size = batch_size
        self._tasks = tuple(tasks)
        self._hflip = hflip
        self._augmentation = augmentation
        is_weighted = synthetic is not None and synthetic.with_reliability
        self._pixel_weights: PixelWeighting = "confidence" if is_weighted else "none"
        self._seed = seed
        self._mixed_batches = 0
        self._drawn = {"real": 0, "synthetic": 0}

    def __iter__(self) -> Iterator[Batch]:
        """Itself, without end."""
        return self

    def __next__(self) -> Batch:
        """The next batch, on the CPU.

        Raises:
            SourceError: If no real sample can be read.
        """
        drawn = self._draw_synthetic()
        samples = [next(self.real) for _ in range(self._batch_size - len(drawn))]
        versions = [REAL_VERSION] * len(samples) + [version for _, version in drawn]
        samples += [sample for sample, _ in drawn]
        self._drawn["real"] += len(samples) - len(drawn)
        self._drawn["synthetic"] += len(drawn)
        return collate(
            self._augment(samples),
            self._tasks,
            versions=versions,
            captions=[self.real.captions.get(sample.key, "") for sample in samples],
            pixel_weights=self._pixel_weights,
        )

    def state(self) -> dict[str, Any]:
        """Positions and counts as plain values, for a checkpoint."""
        return {
            "real": self.real.state(),
            "live": self.synthetic.live.snapshot() if self.synthetic else None,
            "mixed_batches": self._mixed_batches,
            "drawn": dict(self._drawn),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave.

        The real samples continue where they were; the synthetic ones come from the list as
        storage has it now.
        """
        self.real.restore(state["real"])
        if self.synthetic and state["live"]:
            self.synthetic.live.restore_counts(state["live"])
        self._mixed_batches = int(state["mixed_batches"])
        self._drawn = dict(state["drawn"])

    def _augment(self, samples: list[Sample]) -> list[Sample]:
        # Seeded by position, so that a restored stream changes samples as it would have changed
        # them.
        position = f"{self._seed}/{sum(self._drawn.values())}"
        if self._augmentation is not None:
            samples = [
                augment_sample(sample, self._augmentation, seed=f"{position}/{index}")
                for index, sample in enumerate(samples)
            ]
        if self._hflip:
            flips = random.Random(position)
            samples = [hflip_sample(s) if flips.random() < 0.5 else s for s in samples]
        return samples

    def _draw_synthetic(self) -> list[tuple[Sample, int]]:
        if self.synthetic is None:
            return []
        wanted = self._batch_size - self._num_real(self._mixed_batches)
        drawn = []
        for _ in range(wanted):
            found = self.synthetic.draw()
            if found is None:
                break
            sample, shard = found
            drawn.append((sample, shard.version))
        if drawn or not wanted:
            self._mixed_batches += 1
        return drawn

    def _num_real(self, batch: int) -> int:
        done = math.floor(batch * self._real_per_batch)
        return math.floor((batch + 1) * self._real_per_batch) - done


def _exact(fraction: float) -> Fraction:
    return Fraction(fraction).limit_denominator(10_000)
