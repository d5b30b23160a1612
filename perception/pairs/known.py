"""What a pair is made from: nothing, an image, maps, a pair, or what lies around a hole.

Latents are scaled, [B, C, h, w]; masks [B, 1, h, w] are 1 where something is to be made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional

from perception.pairs.latents import on_each
from perception.pairs.network import Known, PairLatents
from perception.shapes import ShapeError, expect_shape
from schemas.errors import ConfigError, SampleError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from schemas.sample import Task

KnownPart = Literal["nothing", "pair", "labels", "image"]
"""What a new pair is made from: noise alone; a real pair, noised to T; labels; an image."""


def known_from(
    part: KnownPart,
    tasks: Sequence[Task],
    *,
    blank: Tensor | None = None,
    image: Tensor | None = None,
    maps: Mapping[Task, Tensor] | None = None,
) -> Known:
    """Return what one of the four parts keeps, from what there is.

    Args:
        blank: Latents that give shape and device, for ``nothing``.
        image: Of real images, for ``pair`` and ``image``.
        maps: Of all tasks, for ``pair`` and ``labels``.

    Raises:
        ConfigError: If the part needs something that is not given.
    """
    if part == "nothing" and blank is not None:
        return nothing_known(blank, tasks)
    if part == "image" and image is not None:
        return image_known(image, tasks)
    if part == "labels" and maps is not None:
        return maps_known(maps)
    if part == "pair" and image is not None and maps is not None:
        return pair_known(PairLatents(image, dict(maps)))
    needed = {
        "nothing": "image_size",
        "image": "moments",
        "labels": "labels",
        "pair": "moments and labels",
    }
    raise ConfigError(
        f"known = {part}: wanted {needed[part]}, found none; give what pairs are made from"
    )


def expect_labelled(validity: Mapping[Task, Tensor]) -> None:
    """Check that every image has a label of every task.

    Args:
        validity: Task to the share of labelled pixels in each latent pixel, [B, 1, h, w].

    Raises:
        SampleError: Naming the images that lack one (reason ``no_label``).
    """
    for task, share in validity.items():
        empty = (share.flatten(1).amax(dim=1) == 0).nonzero().flatten().tolist()
        if empty:
            raise SampleError(
                "no_label",
                f"images {empty} of a batch of {len(share)} have no {task} to make pairs from; "
                "take labelled images, or make pairs from nothing",
            )


def nothing_known(like: Tensor, tasks: Sequence[Task]) -> Known:
    """Make image and maps from noise alone.

    Args:
        like: Gives shape, dtype and device.
    """
    empty = torch.zeros_like(like)
    latents = PairLatents(empty, dict.fromkeys(tasks, empty))
    return Known(latents, on_each(_make, latents))


def image_known(image: Tensor, tasks: Sequence[Task]) -> Known:
    """Make maps of an image."""
    empty = torch.zeros_like(image)
    latents = PairLatents(image, dict.fromkeys(tasks, empty))
    return Known(latents, PairLatents(_keep(image), dict.fromkeys(tasks, _make(image))))


def maps_known(maps: Mapping[Task, Tensor]) -> Known:
    """Make an image that fits maps.

    Raises:
        ShapeError: If there is no map.
    """
    if not maps:
        raise ShapeError("known maps: wanted at least one, found none; use nothing_known")
    like = next(iter(maps.values()))
    latents = PairLatents(torch.zeros_like(like), dict(maps))
    return Known(
        latents, PairLatents(_make(like), {task: _keep(each) for task, each in maps.items()})
    )


def pair_known(pair: PairLatents, *, keeps_image: bool = False, keeps_maps: bool = False) -> Known:
    """Make a pair anew from the noise level that sampling starts at.

    Args:
        keeps_image: Only the maps are made anew, for the image as it is.
        keeps_maps: Only the image is made anew, for the maps as they are.
    """
    of_image, of_maps = (_keep if kept else _make for kept in (keeps_image, keeps_maps))
    masks = PairLatents(
        of_image(pair.image), {task: of_maps(each) for task, each in pair.maps.items()}
    )
    return Known(pair, masks)


def around_holes(pair: PairLatents, image_mask: Tensor, maps_mask: Tensor | None = None) -> Known:
    """Make what lies inside masks; what lies outside is known.

    Args:
        pair: Latents of the whole image and the whole maps; what they hold inside is read only by
            a start below the schedule's end.
        image_mask: [B, 1, H, W] in [0, 1], in pixels of the image: above 0.5 is made.
        maps_mask: The same for all maps; None: as the image.

    Raises:
        ShapeError: If a mask's size is no multiple of the latents'.
    """
    of_image = to_latent_grid(image_mask, pair.image.shape[-2:])
    of_maps = of_image if maps_mask is None else to_latent_grid(maps_mask, pair.image.shape[-2:])
    return Known(pair, PairLatents(of_image, dict.fromkeys(pair.maps, of_maps)))


def to_latent_grid(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Bring a mask from pixels to latents: a latent is made if any of its pixels is.

    Thin strokes survive; the nearest pixel alone would lose them.

    Args:
        mask: [B, 1, H, W] in [0, 1].
        size: Height and width in latents.

    Returns:
        float32 [B, 1, h, w] of 0 and 1.

    Raises:
        ShapeError: If H and W are no multiples of h and w.
    """
    expect_shape(mask, "B 1 H W", name="mask")
    factors = [pixels / latents for pixels, latents in zip(mask.shape[-2:], size, strict=True)]
    if any(factor < 1 or factor != int(factor) for factor in factors):
        raise ShapeError(
            f"mask: wanted height and width in multiples of {tuple(size)}, found "
            f"{tuple(mask.shape[-2:])}; give the mask the size of the image"
        )
    kernel = (int(factors[0]), int(factors[1]))
    return functional.max_pool2d((mask > 0.5).float(), kernel)


@dataclass(frozen=True, slots=True)
class MaskShares:
    """How often training sees what of a pair as known; the four shares sum to 1.

    Attributes:
        both_made: Nothing is known.
        map_made: The image is known.
        image_made: The map is known.
        rectangles: What lies around a rectangle is known; one for both in half of the cases, else
            one each.
    """

    both_made: float = 0.3
    map_made: float = 0.25
    image_made: float = 0.25
    rectangles: float = 0.2

    def __post_init__(self) -> None:
        """Check the shares.

        Raises:
            ConfigError: If one is negative or they do not sum to 1.
        """
        shares = self.shares
        if min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
            raise ConfigError(
                f"masks: wanted four shares of at least 0 that sum to 1, found {list(shares)}"
            )

    @property
    def shares(self) -> tuple[float, float, float, float]:
        """All four, in their order."""
        return (self.both_made, self.map_made, self.image_made, self.rectangles)


def draw_masks(
    shares: MaskShares, size: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw the masks of one training pair.

    Args:
        size: Height and width in latents.

    Returns:
        The image's and the map's, float32 [1, h, w] of 0 and 1, on the CPU.
    """
    weights = torch.tensor(shares.shares, dtype=torch.float64)
    kind = int(torch.multinomial(weights, 1, generator=generator))
    made, kept = torch.ones(1, *size), torch.zeros(1, *size)
    if kind == 3:
        first = _rectangle(size, generator)
        is_shared = bool(torch.rand((), generator=generator) < 0.5)
        return first, first if is_shared else _rectangle(size, generator)
    of_image = kept if kind == 1 else made
    of_map = kept if kind == 2 else made
    return of_image, of_map


def _rectangle(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """1 inside a rectangle of a quarter of the sides to all of them, anywhere."""
    mask = torch.zeros(1, *size)
    edges: list[slice] = []
    for length in size:
        smallest = max(1, length // 4)
        side = int(torch.randint(smallest, length + 1, (), generator=generator))
        first = int(torch.randint(0, length - side + 1, (), generator=generator))
        edges.append(slice(first, first + side))
    mask[:, edges[0], edges[1]] = 1
    return mask


def _make(latents: Tensor) -> Tensor:
    return torch.ones_like(latents[:, :1])


def _keep(latents: Tensor) -> Tensor:
    return torch.zeros_like(latents[:, :1])
