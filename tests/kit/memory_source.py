"""A labelled source that lives in memory, with readable and unreadable samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from schemas.sample import Sample, SourceShard, Task, UnreadableSample
from sources.protocol import Split


class MemorySource:
    """``num_keys`` square samples in shards of ``shard_keys``; the value of a pixel is the number
    of its sample, but 255 at the left edge; normals all face the camera.
    """

    name = "memory"
    num_classes = 3
    notes = ()

    def __init__(
        self,
        num_keys: int,
        *,
        shard_keys: int = 4,
        unreadable: Sequence[str] = (),
        side_px: int = 8,
    ):
        self.image_size = (side_px, side_px)
        keys = [f"k{i}" for i in range(num_keys)]
        groups = [keys[i : i + shard_keys] for i in range(0, num_keys, shard_keys)]
        self._shards = tuple(
            SourceShard(name=f"train-{i}", uri="memory", keys=tuple(group))
            for i, group in enumerate(groups)
        )
        self._unreadable = set(unreadable)
        self.num_reads = 0

    def shards(self, split: Split) -> tuple[SourceShard, ...]:
        return self._shards if split == "train" else ()

    def tasks_of(self, shard: SourceShard, key: str) -> tuple[Task, ...]:
        return ("depth", "normals")

    def read(
        self, shard: SourceShard, keys: Sequence[str] | None = None
    ) -> Iterator[Sample | UnreadableSample]:
        for key in shard.keys if keys is None else keys:
            self.num_reads += 1
            if key in self._unreadable:
                yield UnreadableSample(key=key, uri="memory", reason="decode_failed", detail="x")
            else:
                image = np.full((*self.image_size, 3), int(key[1:]), np.uint8)
                image[:, 0] = 255
                yield Sample(
                    key=key,
                    image=image,
                    labels={
                        "depth": np.full(self.image_size, 1.0 + int(key[1:]), np.float32),
                        "normals": np.full((*self.image_size, 3), (0, 0, 1), np.float32),
                    },
                )
