"""Small pair networks: random U-Nets, and one whose prediction is a known function of a latent."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from perception.pairs.jointnet import JointNetwork, make_joint_network
from perception.pairs.known import pair_known
from perception.pairs.network import Known, PairLatents
from perception.seeding import sample_generator
from tests.kit.tiny_models import tiny_backbone

if TYPE_CHECKING:
    from perception.diffusion.backbone import DiffusionBackbone

TASK = "normals"


def backbone_of(prediction_type: str = "v_prediction") -> DiffusionBackbone:
    """The tiny backbone, its weights read as predicting noise or velocity."""
    backbone = tiny_backbone()
    schedule = dataclasses.replace(backbone.schedule, prediction_type=prediction_type)
    return dataclasses.replace(backbone, schedule=schedule)


def make_tiny(*, seed: int | None = None, **choices: Any) -> JointNetwork:
    """Make a joint network of the tiny U-Net; a seed moves all that trains off its start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = make_joint_network(tiny_backbone(), (TASK,), **choices)
    if seed is not None:
        shift(network, seed=seed)
    return network


@torch.no_grad()
def shift(module: nn.Module, *, seed: int, by: float = 0.05) -> None:
    """Add noise to every parameter."""
    generator = sample_generator(seed)
    for parameter in module.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=by)


def random_pair(count: int = 2, *, seed: int = 0, size: tuple[int, int] = (8, 8)) -> PairLatents:
    """Draw latents of an image and a map."""
    image, of_map = torch.randn(2, count, 4, *size, generator=sample_generator(seed))
    return PairLatents(image, {TASK: of_map})


def random_known(count: int = 2, *, seed: int = 5, size: tuple[int, int] = (8, 8)) -> Known:
    """Draw latents, and masks apart for the image and the map."""
    image, of_map = torch.rand(2, count, 1, *size, generator=sample_generator(seed)).round()
    return Known(random_pair(count, seed=seed, size=size), PairLatents(image, {TASK: of_map}))


def all_made(pair: PairLatents) -> Known:
    """Know nothing."""
    return pair_known(pair)


def context_of(count: int = 2, prompt: str = "a bed") -> Tensor:
    """Embed the same text for each sample."""
    return tiny_backbone().embed_text([prompt]).expand(count, -1, -1)


class PointwiseNetwork(JointNetwork):
    """Predicts a z + b at each latent, whatever is around it; moves as a joint network does."""

    def __init__(self, factor: float = 0.6, shift: float = 0.2) -> None:
        nn.Module.__init__(self)
        self.schedule = backbone_of("epsilon").schedule
        self.tasks = (TASK,)
        self.factor, self.shift = factor, shift

    def forward(
        self, noisy: PairLatents, timestep: int | Tensor, context: Tensor, known: Known
    ) -> PairLatents:
        """Predict; a text of other numbers gives another prediction."""
        text = context.mean(dim=(1, 2))[:, None, None, None]
        image, of_map = (
            self.factor * each + self.shift + text for each in (noisy.image, noisy.maps[TASK])
        )
        return PairLatents(image, {TASK: of_map})
