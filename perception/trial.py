"""Whether method and creator can do what a run asks, found out without weights and arithmetic.

On torch's meta device tensors have shapes and no values: backbone and method are made there from
their configurations, and one image is predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from perception.build import dtype_of, make_creator_network, make_method
from perception.diffusion.backbone import DiffusionBackbone
from perception.diffusion.schedule import NoiseSchedule
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from schemas.config import RunConfig

_META = torch.device("meta")
_NUM_TOKENS = 77


def expect_method_fits(
    config: RunConfig, networks: Mapping[str, Mapping[str, Any]], image_size: tuple[int, int]
) -> None:
    """Make a run's method and predict an image, on the meta device.

    Args:
        networks: Configurations of ``vae`` and ``unet`` of the diffusion model.
        image_size: Rows and columns of the run's images.

    Raises:
        ConfigError: If the method does not predict the tasks, or fits neither the diffusion model
            nor the size of the images.
    """
    method = config.method
    try:
        backbone = _shapes_of(networks, dtype_of(config))
        with _META:
            made = make_method(config, backbone)
            pyramid = made.observe(backbone, torch.zeros(1, 3, *image_size))
            made.predict(pyramid, image_size)
    except NotImplementedError:
        return
    except (ValueError, RuntimeError, LookupError, TypeError) as error:
        if "meta" in str(error):
            # An operation asks for values, which says nothing about the method.
            return
        raise ConfigError(
            f"method.name = {method.name}, method.tasks = {list(method.tasks)}, on images of "
            f"{image_size[0]} x {image_size[1]} (rows x columns) with model.diffusion = "
            f"{config.model.diffusion}: {str(error).splitlines()[0]}; choose another size of the "
            "source's images, or another method or model"
        ) from error


def expect_creator_fits(config: RunConfig, networks: Mapping[str, Mapping[str, Any]]) -> None:
    """Make what learns in the run's stage ``creator``, if it has one, on the meta device.

    Args:
        networks: As of :func:`expect_method_fits`.

    Raises:
        ConfigError: If it does not fit the diffusion model.
    """
    if config.training.creator is not None:
        backbone = _shapes_of(networks, dtype_of(config))
        with _META:
            make_creator_network(config, backbone)


@dataclass(frozen=True, slots=True)
class _PromptShapes:
    """Stands for the text encoder."""

    width: int

    def embed(self, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(prompts), _NUM_TOKENS, self.width, device=_META)


def _shapes_of(networks: Mapping[str, Mapping[str, Any]], dtype: torch.dtype) -> DiffusionBackbone:
    with _META:
        vae: Any = AutoencoderKL.from_config(dict(networks["vae"]))
        unet: Any = UNet2DConditionModel.from_config(dict(networks["unet"]))
    for network in (vae, unet):
        # Not diffusers' own, which warns: no values are rounded here.
        torch.nn.Module.to(network, dtype).eval().requires_grad_(requires_grad=False)
    prompts: Any = _PromptShapes(int(unet.config.cross_attention_dim))
    return DiffusionBackbone(
        vae=vae,
        unet=unet,
        prompts=prompts,
        schedule=NoiseSchedule.from_config({"beta_schedule": "scaled_linear"}),
        model_id="",
        device=_META,
        dtype=dtype,
    )
