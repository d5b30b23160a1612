"""Surface normals and their uncertainty: the decoder of Bae et al. (2021), for any VAE factor."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.adapter import AdapterPlan, scaled_width
from perception.geometry import inverse_length
from perception.points import (
    choose_points,
    paste_points,
    read_points,
    read_points_bilinear,
    resize_nearest,
)

_PUBLISHED_DECODER_CHANNELS = (1024, 512, 256, 128)
_PUBLISHED_POINT_CHANNELS = 128
_NUM_GROUPS = 8
_SMALLEST_KAPPA = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class NormalsLevel:
    """Prediction at one resolution; the channels are the unit normal (3) and kappa (1).

    Attributes:
        prediction: [B, 4, h, w]; between pasted points it is the level below, interpolated, where
            normals are not of unit length.
        points: int64 [B, N], the pixels that the point network predicted, as ``perception.points``
            defines them; None at the coarse level, which predicts every pixel.
        point_prediction: [B, 4, N] at those points; None at the coarse level.
    """

    prediction: Tensor
    points: Tensor | None = None
    point_prediction: Tensor | None = None


def normalise_prediction(raw: Tensor) -> Tensor:
    """Turn raw channels into a unit normal and a positive concentration.

    n = n / max(‖n‖, 1e-10), kappa = ELU(k) + 1 + 0.01 (Bae et al., 2021).

    Args:
        raw: [B, 4, ...], the normal in channels 0 to 2.

    Returns:
        Same shape; kappa is above 0.01.
    """
    normal, k = raw[:, :3], raw[:, 3:]
    unit = normal * inverse_length(normal)
    return torch.cat([unit, functional.elu(k) + 1.0 + _SMALLEST_KAPPA], dim=1)


def _raise_to(maps_BChw: Tensor, size: tuple[int, int]) -> Tensor:
    """Up-sample with corner pixels aligned, as everywhere in this decoder."""
    return functional.interpolate(maps_BChw, size=size, mode="bilinear", align_corners=True)


def _point_network(in_channels: int, width: int) -> nn.Sequential:
    """Three hidden layers that act on each point alone."""
    widths = [in_channels, width, width, width]
    layers: list[nn.Module] = []
    for low, high in pairwise(widths):
        layers += [nn.Conv1d(low, high, kernel_size=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv1d(width, 4, kernel_size=1))


def _doubled_size(maps_BChw: Tensor) -> tuple[int, int]:
    height, width = maps_BChw.shape[-2:]
    return 2 * height, 2 * width


def _valid_at(valid_BHW: Tensor | None, like_BChw: Tensor) -> Tensor | None:
    if valid_BHW is None:
        return None
    height, width = like_BChw.shape[-2:]
    return resize_nearest(valid_BHW.unsqueeze(1), (height, width)).squeeze(1)


class StandardisedConv2d(nn.Conv2d):
    """3×3 convolution whose filters have zero mean and unit deviation (Qiao et al., 2019)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, maps_BChw: Tensor) -> Tensor:
        """Map [B, in_channels, h, w] to [B, out_channels, h, w]."""
        deviation, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        return self._conv_forward(maps_BChw, (self.weight - mean) / (deviation + 1e-5), self.bias)


class UpSampleBlock(nn.Module):
    """Double the side, join the skip map, and convolve twice."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            StandardisedConv2d(in_channels + skip_channels, out_channels),
            nn.GroupNorm(_NUM_GROUPS, out_channels),
            nn.LeakyReLU(),
            StandardisedConv2d(out_channels, out_channels),
            nn.GroupNorm(_NUM_GROUPS, out_channels),
            nn.LeakyReLU(),
        )

    def forward(self, maps_BChw: Tensor, skip_BCHW: Tensor) -> Tensor:
        """Return [B, out_channels, H, W], the side of the skip map."""
        height, width = skip_BCHW.shape[-2:]
        joined = torch.cat([_raise_to(maps_BChw, (height, width)), skip_BCHW], dim=1)
        features: Tensor = self.convolutions(joined)
        return features


class BaeNormalsHead(nn.Module):
    """Coarse normals at the latent's side, refined at every doubling up to the image's side.

    A refinement predicts points with a small network from the decoder's features and the level
    below. In training these are the pixels that ``choose_points`` selects, otherwise all of them.

    Args:
        plan: The adapter's maps that the head reads.
        point_fraction: Share of pixels that a refinement predicts in training.
        uncertain_fraction: Share of these that are the most uncertain ones.
    """

    def __init__(
        self, plan: AdapterPlan, *, point_fraction: float = 0.4, uncertain_fraction: float = 0.7
    ) -> None:
        super().__init__()
        self.point_fraction = point_fraction
        self.uncertain_fraction = uncertain_fraction
        channels = plan.channels
        widths = [
            scaled_width(width, plan.width_ratio)
            for width in _PUBLISHED_DECODER_CHANNELS[: len(channels) - 1]
        ]
        point_width = scaled_width(_PUBLISHED_POINT_CHANNELS, plan.width_ratio)
        self.entry = nn.Conv2d(channels[0], channels[0], kernel_size=1)
        self.blocks = nn.ModuleList(
            UpSampleBlock(low, skip, high)
            for (low, high), skip in zip(
                pairwise([channels[0], *widths]), channels[1:], strict=True
            )
        )
        self._coarse_block = len(plan.merge_channels) - 2
        self.coarse = nn.Conv2d(widths[self._coarse_block], 4, kernel_size=3, padding=1)
        self.point_networks = nn.ModuleList(
            _point_network(width + 4, point_width) for width in widths[self._coarse_block :]
        )

    def forward(
        self,
        maps: list[Tensor],
        *,
        valid_BHW: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> list[NormalsLevel]:
        """Predict for training: refinements at chosen points only.

        Args:
            maps: The adapter's maps, low to high resolution.
            valid_BHW: bool [B, H, W], where there is ground truth; steers the choice of points.

        Returns:
            The coarse level and one level for each refinement, the last at the image's side.
        """
        features = self._decode(maps)
        levels = [NormalsLevel(prediction=normalise_prediction(self.coarse(features[0])))]
        for network, feature in zip(self.point_networks, features, strict=True):
            raised = _raise_to(levels[-1].prediction, _doubled_size(levels[-1].prediction))
            points = choose_points(
                raised[:, 3],
                point_fraction=self.point_fraction,
                uncertain_fraction=self.uncertain_fraction,
                valid_Bhw=_valid_at(valid_BHW, raised),
                generator=generator,
            )
            grid_size = (raised.shape[-2], raised.shape[-1])
            read = torch.cat(
                [
                    read_points_bilinear(feature, points, grid_size=grid_size),
                    read_points(raised, points),
                ],
                dim=1,
            )
            predicted = normalise_prediction(network(read))
            levels.append(
                NormalsLevel(
                    prediction=paste_points(raised, points, predicted),
                    points=points,
                    point_prediction=predicted,
                )
            )
        return levels

    def predict(self, maps: list[Tensor]) -> Tensor:
        """Predict every pixel with the point networks.

        Args:
            maps: The adapter's maps, low to high resolution.

        Returns:
            [B, 4, H, W], unit normals and kappa at the image's side.
        """
        features = self._decode(maps)
        prediction = normalise_prediction(self.coarse(features[0]))
        for network, feature in zip(self.point_networks, features, strict=True):
            size = _doubled_size(prediction)
            read = torch.cat([_raise_to(feature, size), _raise_to(prediction, size)], dim=1)
            prediction = normalise_prediction(network(read.flatten(2))).unflatten(2, size)
        return prediction

    def _decode(self, maps: list[Tensor]) -> list[Tensor]:
        """Run the up-sampling path; returns its features from the latent's side upwards."""
        hidden = self.entry(maps[0])
        features = []
        for block, skip in zip(self.blocks, maps[1:], strict=True):
            hidden = block(hidden, skip)
            features.append(hidden)
        return features[self._coarse_block :]
