"""The same done to an image's latents and to those of its maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perception.pairs.network import PairLatents
from perception.seeding import draw_noise

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from perception.seeding import Generators


def on_each(
    function: Callable[..., Tensor], first: PairLatents, *others: PairLatents
) -> PairLatents:
    """Apply a function to the images, then to the maps of each task that the first pair has."""
    pairs = (first, *others)
    return PairLatents(
        image=function(*(pair.image for pair in pairs)),
        maps={task: function(*(pair.maps[task] for pair in pairs)) for task in first.maps},
    )


def draw_pair_noise(like: PairLatents, *, generators: Generators = None) -> PairLatents:
    """Draw standard normal noise: the image's first, then each map's."""
    return on_each(
        lambda each: draw_noise(each.shape, generators=generators, device=each.device), like
    )


def rows(pair: PairLatents, which: slice) -> PairLatents:
    """Return some samples of a batch."""
    return on_each(lambda each: each[which], pair)
