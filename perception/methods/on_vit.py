"""What the methods on a ViT share: their assembly, and the way from outputs to labels."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from perception.heads.stride_pyramid import backbone_width_ratio
from perception.heads.task_outputs import finish_outputs, output_channels
from perception.losses.multi_task import multi_task_loss
from perception.merge import DiffusionMerge
from perception.methods.protocol import DensePredictor, Predictions, evaluating
from perception.methods.raw_outputs import multi_task_predictions
from perception.vit import expect_images, make_vit

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import ViTModel

    from perception.methods.protocol import Labels, PixelWeights, Pyramid
    from perception.methods.spec import MethodSpec
    from schemas.config_method import MethodSection
    from schemas.sample import Task


def width_ratio_of(spec: MethodSpec) -> float:
    """Widths of the method relative to the published ones."""
    return backbone_width_ratio(spec.block_out_channels, spec.choices.width_ratio)


def vit_of(spec: MethodSpec) -> ViTModel:
    """Load or make the ViT that a run names.

    Raises:
        ConfigError: If ``spec.encoder`` names no ViT.
    """
    return make_vit(
        spec.encoder, width_ratio=width_ratio_of(spec), vae_scale_factor=spec.vae_scale_factor
    )


def merge_of(
    spec: MethodSpec, vit: ViTModel, *, use_spectral_norm: bool = True
) -> DiffusionMerge | None:
    """Make what brings diffusion maps to the scale and width of the ViT's features.

    None if the method reads no diffusion features.

    Raises:
        ValueError: If the backbone does not have four levels.
    """
    if not spec.choices.reads_diffusion:
        return None
    return DiffusionMerge(
        spec.level_channels,
        vit.config.hidden_size,
        patch_size=vit.config.patch_size,
        vae_scale_factor=spec.vae_scale_factor,
        width_ratio=width_ratio_of(spec),
        starts_at_zero=spec.encoder is not None,
        use_spectral_norm=use_spectral_norm,
    )


def channels_of(spec: MethodSpec) -> dict[Task, int]:
    """Channels of each task's raw output.

    Raises:
        ValueError: If the number of classes of a task is missing.
    """
    return {task: output_channels(task, spec.num_classes) for task in spec.choices.tasks}


def image_size(pyramid: Pyramid) -> tuple[int, int]:
    """Rows and columns of the images behind the maps.

    Raises:
        ValueError: If the pyramid has none.
    """
    rows, columns = expect_images(pyramid.images).shape[-2:]
    return rows, columns


class MethodOnViT(DensePredictor):
    """A ViT beside the diffusion features, and a decoder over all tasks.

    Args:
        merge: Diffusion maps to the scale and width of the ViT's features; None: none are read.
        choices: Section ``method`` of the configuration.
    """

    def __init__(
        self,
        encoder: nn.Module,
        merge: DiffusionMerge | None,
        decoder: nn.Module,
        choices: MethodSection,
    ) -> None:
        super().__init__(choices)
        self.encoder = encoder
        self.merge = merge
        self.decoder = decoder

    def forward_train(
        self,
        pyramid: Pyramid,
        *,
        labels: Labels | None = None,  # noqa: ARG002
        generator: torch.Generator | None = None,
    ) -> Any:
        """See :meth:`DensePredictor.forward_train`; raw outputs have the images' size."""
        return finish_outputs(self.raw_outputs(pyramid, generator=generator), image_size(pyramid))

    def loss(
        self, outputs: Any, labels: Labels, weights: PixelWeights | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """See :meth:`DensePredictor.loss`: the weighted sum of the tasks' losses."""
        return multi_task_loss(outputs, labels, task_weights=self.task_weights, weights=weights)

    @abstractmethod
    def raw_outputs(
        self, pyramid: Pyramid, *, generator: torch.Generator | None = None
    ) -> dict[Task, Tensor]:
        """Return each task's raw output [B, C, h, w] at the decoder's own size."""

    def predict(self, pyramid: Pyramid, image_size: tuple[int, int]) -> Predictions:
        """See :meth:`DensePredictor.predict`."""
        with evaluating(self):
            return multi_task_predictions(finish_outputs(self.raw_outputs(pyramid), image_size))
