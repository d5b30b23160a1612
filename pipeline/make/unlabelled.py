"""Real images without labels in place of synthetic ones (Table 8 of Diff-2-in-1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.errors import SourceError

if TYPE_CHECKING:
    from schemas.sample import Sample, SourceShard, UnreadableSample
    from sources.protocol import LabelledSource


class UnlabelledPool:
    """Gives every planned sample a real image of its own, without its labels.

    Args:
        source: Its split ``unlabelled`` is the pool.
        variants: Samples planned for each labelled image.

    Raises:
        SourceError: If the pool holds fewer images than are planned.
    """

    def __init__(self, source: LabelledSource, *, variants: int) -> None:
        self._source = source
        self._variants = variants
        self._images = [(shard, key) for shard in source.shards("unlabelled") for key in shard.keys]
        labelled = [(shard.name, key) for shard in source.shards("train") for key in shard.keys]
        self._places = {which: place for place, which in enumerate(labelled)}
        wanted = len(labelled) * variants
        if len(self._images) < wanted:
            raise SourceError(
                f"source {source.name}: creator.kind = unlabelled wants {wanted} images without "
                f"labels ({len(labelled)} labelled x {variants} variants), found "
                f"{len(self._images)}; lower source.num_labelled or plan.variants"
            )

    def read(
        self, source_shard: str, key: str, variant: int
    ) -> tuple[SourceShard, Sample | UnreadableSample]:
        """Read the image that stands for a planned sample, and the shard it lies in."""
        place = self._places[source_shard, key] * self._variants + variant
        shard, name = self._images[place]
        return shard, next(iter(self._source.read(shard, [name])))
