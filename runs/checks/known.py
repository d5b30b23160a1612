"""Whether the images of a run are of the kind that its models know, where the models say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from schemas.paths import resolve_path
from schemas.sample import Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from schemas.config import RunConfig
    from sources.protocol import LabelledSource

NUM_LOOKED_AT = 16


def remarks_on_foreign_images(config: RunConfig, source: LabelledSource) -> list[str]:
    """Look at some training images; a line if they are of another kind than the models know.

    Nothing is loaded for models that do not say which images they know, as most do not, nor for
    rooms, which are what the models that say it know.

    Raises:
        ConfigError: If what the models say is malformed.
    """
    if config.source.kind == "rooms":
        return []
    from perception.known_images import read_known_images

    folder = Path(resolve_path(config.model.diffusion)).expanduser()
    known = read_known_images(folder)
    if known is None:
        return []
    from perception.diffusion.backbone import load_backbone

    images = _spread_images(source)
    number = known.count_foreign(load_backbone(folder), images)
    told = known.describe(number, len(images))
    return [] if told is None else [told]


def _spread_images(source: LabelledSource) -> list[NDArray[np.uint8]]:
    places = [(shard, key) for shard in source.shards("train") for key in shard.keys]
    step = max(1, len(places) // NUM_LOOKED_AT)
    found = (
        sample
        for shard, key in places[::step][:NUM_LOOKED_AT]
        for sample in source.read(shard, [key])
    )
    return [sample.image for sample in found if isinstance(sample, Sample)]
