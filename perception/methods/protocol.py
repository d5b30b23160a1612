"""What every method fulfils: images become features, features become predictions and a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from perception.diffusion.features import FeaturePyramid, FeatureSettings, extract_features
from perception.seeding import draw_seeds
from schemas.sample import Task

if TYPE_CHECKING:
    from perception.adapter import PyramidMaps
    from perception.diffusion.backbone import DiffusionBackbone
    from perception.diffusion.latents import LatentMoments
    from perception.diffusion.tuning import TunedUnet
    from perception.seeding import Generators
    from schemas.config_method import MethodSection

Labels = Mapping[Task, Tensor]
"""``normals`` float32 [B, 3, H, W], unit, all-zero where invalid; ``depth`` float32 [B, 1, H, W] in
metres, 0 where invalid; ``semseg`` and ``human_parts`` int64 [B, H, W], 255 ignored; ``saliency``
and ``boundaries`` float32 [B, 1, H, W], probability, -1 ignored. All on one device."""


PixelWeights = Mapping[Task, Tensor]
"""Task to float32 [B, 1, H, W], at least 0: how much each pixel's label counts; 1 where missing."""


class Pyramid(Protocol):
    """Raw features of a batch, grouped by level, low to high resolution."""

    @property
    def maps(self) -> PyramidMaps:
        """Maps [B, C, h, w]; all maps of a level have the same side."""

    @property
    def images(self) -> Tensor | None:
        """The images behind the maps, float32 [B, 3, H, W] in [-1, 1]; None if not kept."""

    @property
    def seeds(self) -> Tensor | None:
        """Each image's source of noise, int64 [B]; None for methods that draw none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """What a method sees in a batch of images.

    Attributes:
        labels: Task to prediction, encoded like ``Labels``.
        reliability: Task to float32 [B, 1, H, W]. ``normals``: expected angular error in degrees,
            lower is surer; all other tasks: in [0, 1], higher is surer.
    """

    labels: dict[Task, Tensor]
    reliability: dict[Task, Tensor]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode without gradients, and back into the mode it had."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)


def feature_settings(choices: MethodSection) -> FeatureSettings:
    """How the method's features are taken: a published convention, perhaps at another index."""
    timestep = choices.feature_timestep
    if choices.feature_convention == "vpd":
        return FeatureSettings(
            timestep=1 if timestep is None else timestep,
            posterior="mode",
            scale_latents=False,
            add_noise=False,
        )
    return FeatureSettings(timestep=0 if timestep is None else timestep)


class DensePredictor(nn.Module, ABC):
    """A whole predictor on top of a frozen backbone; all of its tensors are trained and published.

    Attributes:
        tasks: What it predicts.
        task_weights: Task to its factor in the loss; the method's own where missing.
        feature_settings: How it wants the backbone's features.
        shares_features: Whether :meth:`observe` depends on nothing but backbone and settings, so
            that several sets of weights can read the same features.
        reads_diffusion: Whether it reads diffusion features; else the backbone is not run.
        predicts_from_noise: Whether :meth:`predict` draws noise, for which each image has a seed.
        tuned_unet: A U-Net that learns with the method and gives its features; None: the frozen
            one does.
    """

    shares_features: bool = True
    predicts_from_noise: bool = False

    def __init__(self, choices: MethodSection) -> None:
        """Take what every method reads from section ``method`` of the configuration."""
        super().__init__()
        self.tasks: tuple[Task, ...] = choices.tasks
        self.task_weights: Mapping[Task, float] = choices.task_weights
        self.feature_settings = feature_settings(choices)
        self.reads_diffusion = choices.reads_diffusion
        self.tuned_unet: TunedUnet | None = None

    def learn_unet(self, tuned: TunedUnet) -> None:
        """Read features from a U-Net that learns with the method, no longer from the frozen one."""
        self.tuned_unet = tuned
        self.shares_features = False

    def observe(
        self,
        backbone: DiffusionBackbone,
        images: Tensor,
        *,
        moments: LatentMoments | None = None,
        generators: Generators = None,
    ) -> FeaturePyramid:
        """Take what the method reads from a batch of images.

        Methods that teach the backbone something (text tokens, a tuned U-Net) override it and let
        gradients through; the frozen parts never get one.

        Args:
            images: float32 [B, 3, H, W] in [-1, 1], on any device.
            moments: The images' posterior, if it was encoded before.
            generators: Source of posterior and schedule noise: one per image, one for the batch,
                or None for torch's global state.
        """
        pixels = images.to(backbone.device)
        pyramid = FeaturePyramid(maps=(), images=pixels)
        if self.reads_diffusion:
            pyramid = extract_features(
                backbone,
                pixels if moments is None else moments,
                generators=generators,
                settings=self.feature_settings,
                images=pixels,
                tuned=self.tuned_unet,
            )
        if self.predicts_from_noise:
            # After the features, so that they are those of methods that draw no seeds.
            return replace(pyramid, seeds=draw_seeds(generators, len(pixels)))
        return pyramid

    @abstractmethod
    def forward_train(
        self,
        pyramid: Pyramid,
        *,
        labels: Labels | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Predict for training; only :meth:`loss` of the same method reads the result.

        Args:
            labels: Of the batch; they may steer which pixels learn, and a method that denoises
                labels takes them as input. None: not known.
        """

    @abstractmethod
    def loss(
        self, outputs: Any, labels: Labels, weights: PixelWeights | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """Compare what :meth:`forward_train` returned with labels.

        Args:
            outputs: Result of :meth:`forward_train` on the same batch.
            labels: Must hold every task; a task's image without labels is invalid everywhere.
            weights: How much each pixel counts; None: all alike.

        Returns:
            The scalar to minimise, and the loss of each task for the record.
        """

    @abstractmethod
    def predict(self, pyramid: Pyramid, image_size: tuple[int, int]) -> Predictions:
        """Predict in evaluation mode without gradients, whatever mode the module is in."""

    def forward(
        self,
        pyramid: Pyramid,
        labels: Labels,
        weights: PixelWeights | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the training loss; one call, so that a distributed wrapper sees the whole step."""
        outputs = self.forward_train(pyramid, labels=labels, generator=generator)
        return self.loss(outputs, labels, weights)


def supervised_loss(
    method: DensePredictor,
    pyramid: Pyramid,
    labels: Labels,
    *,
    weights: PixelWeights | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch: Eq. 6 on real pairs, Eq. 7 on real and synthetic pairs together.

    Diff-2-in-1 (Zheng et al., 2024) gives L_syn the form of L_sup with the creation weights' labels
    taken as truth, so both sums are one call. Sums over pairs are means here: a constant factor.

    Args:
        method: With the weights to train: θ_W in Eq. 6, θ_E in Eq. 7.
        pyramid: Raw features of the batch, real and synthetic images in any order.
        labels: True labels of the real images, predicted labels of the synthetic ones, without
            gradient.
        weights: How much each pixel counts; None (the paper): all alike.

    Returns:
        The scalar to minimise, and the loss of each task.

    Raises:
        ValueError: If a task has no labels, or labels carry a gradient.
    """
    missing = [task for task in method.tasks if task not in labels]
    if missing:
        raise ValueError(
            f"wanted labels of {list(method.tasks)}, found none of {missing}; add them, "
            "invalid everywhere if unknown"
        )
    attached = [task for task, label in labels.items() if label.requires_grad]
    if attached:
        raise ValueError(f"wanted labels without gradient, found one on {attached}; detach them")
    loss, terms = method(pyramid, labels, weights, generator)
    return loss, terms
