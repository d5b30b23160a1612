"""The ResNet encoder of DiffusionMTL: transformers' own, read after each of its four stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers import PreTrainedConfig, ResNetConfig, ResNetModel

from perception.model_files import find_model_folder
from perception.model_loading import load_encoder, loading
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

NUM_STAGES = 4
_PUBLISHED_WIDTH = 64
_SMALLEST_WIDTH = 16
_BLOCKS_A_STAGE = 2


def resnet_config(width_ratio: float) -> ResNetConfig:
    """Scale ResNet-18 (He et al., 2016) to another width; its depth stays.

    Args:
        width_ratio: 1 for stages of 64, 128, 256 and 512 channels; 0.1 gives 16, 32, 64, 128.
    """
    first = max(_SMALLEST_WIDTH, 8 * round(_PUBLISHED_WIDTH * width_ratio / 8))
    return ResNetConfig(
        embedding_size=first,
        hidden_sizes=[first << stage for stage in range(NUM_STAGES)],
        depths=[_BLOCKS_A_STAGE] * NUM_STAGES,
        layer_type="basic",
    )


def make_resnet(encoder: str | Path | None, *, width_ratio: float) -> ResNetModel:
    """Load a pretrained ResNet, or make one with random weights.

    Args:
        encoder: Folder in the form of ``ResNetModel.save_pretrained`` or Hugging Face id; None:
            random weights.
        width_ratio: See ``resnet_config``; plays no part for a pretrained one.

    Raises:
        ConfigError: If the folder or its files are missing, or it is no ResNet of four stages.
    """
    if encoder is None:
        return ResNetModel(resnet_config(width_ratio))
    folder = find_model_folder(
        encoder, required=("config.json",), patterns=["config.json", "model*.safetensors*"]
    )
    # The loader would take another network's folder and make up the weights that it lacks.
    with loading(folder):
        kind = PreTrainedConfig.get_config_dict(folder)[0].get("model_type")
    if kind != ResNetConfig.model_type:
        raise ConfigError(
            f"method.encoder = {encoder}: wanted a ResNet, found model_type {kind!r}; "
            "use ResNet-18 or ResNet-50"
        )
    model: ResNetModel = load_encoder(ResNetModel, folder)
    if len(model.config.hidden_sizes) != NUM_STAGES:
        raise ConfigError(
            f"method.encoder = {encoder}: wanted a ResNet of {NUM_STAGES} stages, found "
            f"{len(model.config.hidden_sizes)}; use ResNet-18 or ResNet-50"
        )
    return model


class ResNetEncoder(nn.Module):
    """Feature maps of a ResNet, one a stage.

    Attributes:
        widths: Channels of the maps, high to low resolution.
    """

    def __init__(self, resnet: ResNetModel) -> None:
        super().__init__()
        self.resnet = resnet
        self.widths: tuple[int, ...] = tuple(resnet.config.hidden_sizes)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map standardised images [B, 3, H, W] to maps at 1/4, 1/8, 1/16 and 1/32 of the side."""
        found = self.resnet(images, output_hidden_states=True)
        return list(found.hidden_states[1:])
