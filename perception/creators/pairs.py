"""JointNet and MT-Diffusion as creators: pair models that learn on a source's own pairs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from perception.creators.protocol import CreatorNetwork
from perception.diffusion.features import FeaturePyramid
from perception.methods import METHODS
from perception.methods.spec import method_spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from perception.diffusion.backbone import DiffusionBackbone
    from perception.diffusion.latents import LatentMoments
    from perception.methods.pair_model import PairModel
    from perception.methods.protocol import Labels
    from schemas.config import RunConfig
    from schemas.config_method import MethodName


def make(config: RunConfig, backbone: DiffusionBackbone) -> PairCreatorNetwork:
    """Make a pair model of the run's tasks at its start.

    Raises:
        ConfigError: If it does not fit the backbone, or cannot make what is asked of it.
    """
    name: MethodName = "jointnet" if config.creator.kind == "jointnet" else "mtdiffusion"
    choices = config.method.model_copy(update={"name": name})
    model: PairModel = import_module(METHODS[name]).make(
        method_spec(choices, backbone, config.pairs)
    )
    model.expect_creates(config.creator, config.creator.starts_from)
    return PairCreatorNetwork(model, text_drop=config.training.creator_stage.text_drop)


class PairCreatorNetwork(CreatorNetwork):
    """A pair model that learns from images, their labels and their captions.

    Attributes:
        model: Makes images together with the maps of its tasks.
    """

    def __init__(self, model: PairModel, *, text_drop: float) -> None:
        super().__init__(text_drop=text_drop)
        self.model = model

    def forward(
        self,
        backbone: DiffusionBackbone,
        moments: LatentMoments,
        *,
        labels: Labels,
        captions: Sequence[str],
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the pair model's loss; its parts are the whole, and each task's map.

        An image without a label of any task teaches nothing.
        """
        latents = moments.draw(generators=generator) * backbone.scaling_factor
        context = backbone.embed_text(self.told(captions, generator))
        pyramid = FeaturePyramid(((latents, context),))
        outputs = self.model.forward_train(pyramid, labels=labels, generator=generator)
        loss, terms = self.model.loss(outputs, labels)
        return loss, {"pair": float(loss.detach()), **terms}
