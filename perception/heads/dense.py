"""Plain heads on the adapter's pyramid: depth with its error, and logits for all else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.adapter import AdapterPlan, scaled_width

_PUBLISHED_WIDTH = 256
_NUM_GROUPS = 8
_SMALLEST_DEPTH_M = 1e-3
_START_DEPTH_M = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthPrediction:
    """Depth with an estimate of its error.

    Attributes:
        depth_m: [B, 1, H, W], metres, positive.
        log_error: [B, 1, H, W], expected |log d̂ - log d|, not negative.
    """

    depth_m: Tensor
    log_error: Tensor


def _smooth(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.GroupNorm(_NUM_GROUPS, out_channels),
        nn.ReLU(inplace=True),
    )


class PyramidFusion(nn.Module):
    """Top-down feature pyramid (Lin et al., 2017), smoothed at its finest side.

    Attributes:
        width: Channels of the result.
    """

    def __init__(self, plan: AdapterPlan) -> None:
        super().__init__()
        self.width = scaled_width(_PUBLISHED_WIDTH, plan.width_ratio)
        self.laterals = nn.ModuleList(
            _smooth(channels, self.width, 1) for channels in plan.channels
        )
        self.smooth = nn.Sequential(
            _smooth(self.width, self.width, 3), _smooth(self.width, self.width, 3)
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Join maps, low to high resolution, into [B, width, h, w] with the side of the last."""
        joined = self.laterals[0](maps[0])
        for lateral, level in zip(list(self.laterals)[1:], maps[1:], strict=True):
            raised = functional.interpolate(
                joined, size=level.shape[-2:], mode="bilinear", align_corners=False
            )
            joined = raised + lateral(level)
        smoothed: Tensor = self.smooth(joined)
        return smoothed


class DepthHead(nn.Module):
    """Metric depth; the error estimate reads the features without sending a gradient back."""

    def __init__(self, plan: AdapterPlan) -> None:
        super().__init__()
        self.fusion = PyramidFusion(plan)
        self.depth = nn.Conv2d(self.fusion.width, 1, kernel_size=1)
        self.log_error = nn.Conv2d(self.fusion.width, 1, kernel_size=1)
        nn.init.constant_(self.depth.bias, _START_DEPTH_M)  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor], image_size: tuple[int, int]) -> DepthPrediction:
        """Predict at ``image_size`` from the adapter's maps, low to high resolution."""
        features = self.fusion(maps)
        raw = torch.cat([self.depth(features), self.log_error(features.detach())], dim=1)
        raised = functional.interpolate(raw, size=image_size, mode="bilinear", align_corners=False)
        positive = functional.softplus(raised)
        return DepthPrediction(
            depth_m=positive[:, :1] + _SMALLEST_DEPTH_M, log_error=positive[:, 1:]
        )


class LogitsHead(nn.Module):
    """Logits at the image's size: one a class, or a single one for a probability."""

    def __init__(self, plan: AdapterPlan, num_logits: int) -> None:
        super().__init__()
        self.fusion = PyramidFusion(plan)
        self.classify = nn.Conv2d(self.fusion.width, num_logits, kernel_size=1)

    def forward(self, maps: list[Tensor], image_size: tuple[int, int]) -> Tensor:
        """Return logits [B, num_logits, *image_size] from the adapter's maps."""
        logits = self.classify(self.fusion(maps))
        return functional.interpolate(logits, size=image_size, mode="bilinear", align_corners=False)
