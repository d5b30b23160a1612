"""The processes that share a batch, and what they agree on."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, distributed

if TYPE_CHECKING:
    from collections.abc import Sequence


class Ranks(Protocol):
    """A group of equal processes.

    Attributes:
        rank: This process, from 0; rank 0 alone writes to storage.
        world: How many there are.
    """

    rank: int
    world: int

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each float tensor by its mean over all ranks; every rank has to call it."""


class SingleRank:
    """One process: nothing to agree on."""

    rank = 0
    world = 1

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Leave the tensors as they are."""


class ProcessGroupRanks:
    """The default process group of torch (gloo on CPUs, NCCL on GPUs)."""

    def __init__(self) -> None:
        self.rank = distributed.get_rank()
        self.world = distributed.get_world_size()

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """See :meth:`Ranks.average_`; one message for all tensors together."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= self.world
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.detach().copy_(part.view_as(tensor))


def agree_on_all(ranks: Ranks, *, holds: bool, device: torch.device | str = "cpu") -> bool:
    """Tell every rank whether something holds on all of them."""
    vote = torch.tensor([float(holds)], device=device)
    ranks.average_([vote])
    # Half a vote of room: a device may divide by multiplying with a rounded reciprocal.
    return bool(vote.item() > 1.0 - 0.5 / ranks.world)


def agree_on_equal(ranks: Ranks, data: bytes, *, device: torch.device | str = "cpu") -> bool:
    """Tell whether all ranks hold the same bytes; every rank gets the same answer."""
    digest = hashlib.blake2b(data, digest_size=16).digest()
    words = torch.tensor(
        [float(a * 256 + b) for a, b in zip(digest[::2], digest[1::2], strict=True)]
    )
    mean = words.to(device, copy=True)
    ranks.average_([mean])
    # Rounding moves a mean of equal words by far less than this, other digests by thousands.
    holds = bool(torch.allclose(mean.cpu(), words, rtol=0.0, atol=0.25))
    return agree_on_all(ranks, holds=holds, device=device)
