"""Labels as pictures that an autoencoder of images reads, and back.

A picture is float32 [B, 3, H, W] in [-1, 1]. Directions are drawn as they are; distances by their
logarithm between a fixed nearest and farthest one, grey; classes in the colours of a fixed
palette; probabilities p as 2p - 1, grey. Labels are encoded as methods take them: directions
[B, 3, H, W], class ids int64 [B, H, W], the others [B, 1, H, W].
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from perception.geometry import inverse_length
from perception.losses.reduction import weighted_mean
from perception.losses.segmentation import cross_entropy_loss
from schemas.errors import ConfigError
from schemas.sample import IGNORE_ID, INVALID_VALUES

if TYPE_CHECKING:
    from schemas.sample import TaskKind

_MOST_CLASSES = IGNORE_ID
_DEVIATIONS_TO_NEXT = 4.0
_NO_COLOURS = torch.empty(0, 3)


@dataclass(frozen=True, slots=True, eq=False)
class PictureCode:
    """How labels of one task are drawn.

    Attributes:
        kind: Kind of the task.
        range_m: Nearest and farthest distance; others are drawn as these.
        colours: Of each class, float32 [K, 3].
    """

    kind: TaskKind
    range_m: tuple[float, float] = (0.0, 0.0)
    colours: Tensor = _NO_COLOURS

    def __post_init__(self) -> None:
        """Check what the kind needs.

        Raises:
            ConfigError: If distances have no range, or classes no colours.
        """
        near, far = self.range_m
        if self.kind == "distance" and not 0 < near < far < math.inf:
            raise ConfigError(
                f"range of depth: wanted 0 < nearest < farthest in metres, found {self.range_m}; "
                "give those of the data set"
            )
        if self.kind == "classes" and not len(self.colours):
            raise ConfigError("colours of classes: wanted a palette, found none; give num_classes")

    def valid(self, label: Tensor) -> Tensor:
        """Return where a label holds a value, bool [B, 1, H, W]."""
        if self.kind == "direction":
            return (label != 0).any(dim=1, keepdim=True)
        if self.kind == "classes":
            return (label != IGNORE_ID).unsqueeze(1)
        return label > INVALID_VALUES[self.kind]

    def draw(self, label: Tensor) -> Tensor:
        """Return the picture of a label; where invalid, of the nearest valid pixel.

        An image without any valid pixel is grey.
        """
        valid = self.valid(label)
        picture = self._colour(fill_invalid(label, valid))
        is_any = valid.flatten(1).any(dim=1).reshape(-1, 1, 1, 1)
        return torch.where(is_any, picture, torch.zeros_like(picture))

    def read(self, picture: Tensor) -> Tensor:
        """Return the label of a picture of any values: the way back of :meth:`draw`."""
        if self.kind == "direction":
            return picture * inverse_length(picture)
        if self.kind == "classes":
            return self.class_logits(picture).argmax(dim=1)
        grey = picture.mean(dim=1, keepdim=True).clamp(-1, 1)
        if self.kind == "probability":
            return (grey + 1) / 2
        low, high = (math.log(end) for end in self.range_m)
        return torch.exp(low + (grey + 1) / 2 * (high - low))

    def class_logits(self, picture: Tensor) -> Tensor:
        """Return logits of the classes [B, K, H, W]: a normal distribution about each colour.

        Its deviation is a quarter of the distance of neighbouring colours.
        """
        colours = self.colours.to(picture)
        scale = (_DEVIATIONS_TO_NEXT / _spacing(len(colours))) ** 2
        # -‖p - c‖² / 2 without the part that all classes share.
        scores = torch.einsum("bchw,kc->bkhw", picture, colours)
        return scale * (scores - colours.square().sum(dim=1).reshape(-1, 1, 1) / 2)

    def class_confidence(self, picture: Tensor) -> Tensor:
        """Return how much likelier the nearest class is than the next, [B, 1, H, W] in [0, 1]."""
        shares = self.class_logits(picture).softmax(dim=1)
        if shares.shape[1] == 1:
            return shares
        best = shares.topk(2, dim=1).values
        return best[:, :1] - best[:, 1:]

    def loss(self, picture: Tensor, label: Tensor) -> Tensor:
        """Compare a picture with a label on its valid pixels.

        Direction: 1 - cos θ. Classes: cross-entropy of :meth:`class_logits`. Others: mean absolute
        difference of the pictures.

        Returns:
            Scalar; 0 with a gradient of 0 if no pixel is valid.
        """
        if self.kind == "classes":
            return cross_entropy_loss(self.class_logits(picture), label)
        if self.kind == "direction":
            cosine = (self.read(picture) * label).sum(dim=1, keepdim=True)
            return weighted_mean(1 - cosine, self.valid(label), None)
        difference = (picture - self._colour(label)).abs().mean(dim=1, keepdim=True)
        return weighted_mean(difference, self.valid(label), None)

    def error(self, picture: Tensor, label: Tensor) -> tuple[float, int]:
        """Return the sum of a picture's errors over the valid pixels, and their number.

        Direction: angle in degrees. Distance: relative error. Classes: 1 where the class is right.
        Probability: absolute error.
        """
        found, valid = self.read(picture), self.valid(label)
        each = _pixel_errors(self.kind, found.double(), label.double())
        return float(each[valid].sum()), int(valid.sum())

    def _colour(self, label: Tensor) -> Tensor:
        if self.kind == "direction":
            return label
        if self.kind == "classes":
            ids = label.masked_fill(label == IGNORE_ID, 0)
            return self.colours.to(label.device)[ids].movedim(-1, 1)
        if self.kind == "probability":
            grey = label * 2 - 1
        else:
            low, high = self.range_m
            share = torch.log(label.clamp(low, high) / low) / math.log(high / low)
            grey = share * 2 - 1
        return grey.expand(-1, 3, -1, -1)


def make_palette(num_classes: int) -> Tensor:
    """Choose well separated colours on the coarsest cubic grid that has enough of them.

    The farthest colour from those chosen is next, from black on.

    Args:
        num_classes: K in [1, 255].

    Returns:
        float32 [K, 3] in [-1, 1].

    Raises:
        ConfigError: If the number is out of range.
    """
    if not 1 <= num_classes <= _MOST_CLASSES:
        raise ConfigError(
            f"num_classes: wanted between 1 and {_MOST_CLASSES} to draw them, found {num_classes}"
        )
    steps = torch.linspace(-1, 1, _grid_side(num_classes), dtype=torch.float64)
    grid = torch.tensor(list(itertools.product(steps.tolist(), repeat=3)), dtype=torch.float64)
    chosen = [0]
    nearest = (grid - grid[0]).square().sum(dim=1)
    while len(chosen) < num_classes:
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (grid - grid[chosen[-1]]).square().sum(dim=1))
    return grid[chosen].float()


def fill_invalid(label: Tensor, valid: Tensor) -> Tensor:
    """Give invalid pixels the value of the nearest valid one; an image without any stays.

    Args:
        label: [B, H, W] or [B, C, H, W].
        valid: bool [B, 1, H, W].
    """
    rows = (valid.flatten(1).any(dim=1) & ~valid.flatten(1).all(dim=1)).nonzero().flatten()
    if not len(rows):
        return label
    # Imported here: whole labels need no scipy.
    from scipy.ndimage import distance_transform_edt

    filled = label.clone()
    for row in rows.tolist():
        missing = (~valid[row, 0]).cpu().numpy()
        nearest = distance_transform_edt(missing, return_distances=False, return_indices=True)
        y, x = torch.from_numpy(nearest).long().to(label.device)
        filled[row] = label[row][..., y, x]
    return filled


def pool_validity(valid: Tensor, factor: int) -> Tensor:
    """Return the share of valid pixels in each latent pixel, float32 [B, 1, h, w].

    Args:
        valid: bool [B, 1, H, W].
        factor: Pixels of an image per latent pixel along a side.
    """
    return functional.avg_pool2d(valid.float(), factor)


def _pixel_errors(kind: TaskKind, found: Tensor, wanted: Tensor) -> Tensor:
    """Return errors [B, 1, H, W], anything where invalid."""
    if kind == "direction":
        apart = torch.linalg.vector_norm(found - wanted, dim=1, keepdim=True)
        along = torch.linalg.vector_norm(found + wanted, dim=1, keepdim=True)
        return torch.rad2deg(2 * torch.atan2(apart, along))
    if kind == "classes":
        return (found == wanted).double().unsqueeze(1)
    difference = (found - wanted).abs()
    return difference / wanted if kind == "distance" else difference


def _grid_side(num_classes: int) -> int:
    return next(side for side in range(2, 8) if side**3 >= num_classes)


def _spacing(num_classes: int) -> float:
    """Distance of neighbouring points of the palette's grid."""
    return 2 / (_grid_side(num_classes) - 1)
