"""Open what a run's configuration names: models, source, captioner, generator.

The libraries of the models are imported where they are used: a driver loads none of them, and
starts seconds sooner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.paths import resolve_path
from sources.open import open_run_source

if TYPE_CHECKING:
    from perception.captioner import Captioner
    from perception.diffusion.backbone import DiffusionBackbone
    from pipeline.make.caption import SourceCaptions
    from pipeline.make.creators import LearnedCreator
    from pipeline.make.generator import Generator
    from schemas.config import RunConfig
    from storage.files.stores import RunStore


def open_generator(config: RunConfig, store: RunStore) -> Generator:
    """Load everything a generator needs, but for the weights of its versions."""
    from perception.build import make_method, open_backbone
    from pipeline.make.generator import Generator

    backbone = open_backbone(config)
    return Generator(
        config,
        store=store,
        source=open_run_source(config),
        backbone=backbone,
        method=make_method(config, backbone),
        creator=make_learned_creator(config, backbone),
    )


def make_learned_creator(config: RunConfig, backbone: DiffusionBackbone) -> LearnedCreator | None:
    """Make the creator of a run with ``training.creator``; None for other runs."""
    from perception.build import make_creator_network
    from pipeline.make.creators import LEARNED_CREATORS

    if config.training.creator is None:
        return None
    return LEARNED_CREATORS[config.creator.kind](make_creator_network(config, backbone))


def open_captioner(config: RunConfig) -> Captioner | SourceCaptions:
    """Open the run's captioner.

    Raises:
        ConfigError: If its files are missing or malformed.
    """
    from perception.build import device_of, dtype_of
    from perception.captioner import Blip2Captioner, NoCaptions
    from perception.captioner_image_to_text import ImageToTextCaptioner
    from perception.file_captions import FileCaptions
    from pipeline.make.caption import SourceCaptions

    kind = config.model.captioner
    if kind in {"blip2", "image_to_text"}:
        load = Blip2Captioner.load if kind == "blip2" else ImageToTextCaptioner.load
        return load(
            resolve_path(config.model.captioner_path),
            device=device_of(config),
            dtype=dtype_of(config),
        )
    if kind == "file":
        return FileCaptions.load(resolve_path(config.model.captioner_path))
    return SourceCaptions() if kind == "source" else NoCaptions()
