"""What a method costs: the parameters that it learns, and the multiply-adds of one prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from perception.build import make_method, open_backbone
from perception.predict import predict_images
from sources.open import open_run_source

if TYPE_CHECKING:
    from schemas.config import RunConfig


def size_of(config: RunConfig) -> dict[str, int]:
    """Count what the method of a run learns and what it computes for one image of its source.

    Returns:
        ``parameters``: all that are trained, of heads that serve training alone too;
        ``multiply_adds``: of matrix products and convolutions in one prediction, the frozen
        backbone's included where its features are read.
    """
    backbone = open_backbone(config)
    method = make_method(config, backbone)
    image = np.zeros((*open_run_source(config).image_size, 3), dtype=np.uint8)
    # Of the ways to compute attention only this one is counted on every device.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        predict_images(backbone, method, [image], seeds=[0])
    return {
        "parameters": sum(each.numel() for each in method.parameters()),
        "multiply_adds": counter.get_total_flops() // 2,
    }
