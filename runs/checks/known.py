"""Whether the images of a run are of the kind that its models know, where the models say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from schemas.paths import resolve_path
from sources.spread import spread_samples

if TYPE_CHECKING:
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

    images = [sample.image for sample in spread_samples(source, "train", NUM_LOOKED_AT)]
    number = known.count_foreign(load_backbone(folder), images)
    told = known.describe(number, len(images))
    return [] if told is None else [told]
