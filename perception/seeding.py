"""Random numbers that belong to a sample, not to the batch or machine that happens to draw them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import torch
from torch import Tensor

from perception.shapes import ShapeError

Generators = Sequence[torch.Generator] | torch.Generator | None
"""One generator per sample, one for the whole batch, or None for torch's global state."""


def sample_seed(unit_id: str, key: str, variant: int) -> int:
    """Derive the seed of one synthetic sample.

    The parts are separated before hashing, so ("a", "bc") and ("ab", "c") differ.

    Args:
        key: Key of the real sample the synthetic one starts from.
        variant: Which of several synthetic versions of that sample, from 0.

    Returns:
        A seed in [0, 2**63), the same on every machine and Python version.
    """
    material = json.dumps([unit_id, key, variant], ensure_ascii=True).encode("ascii")
    digest = hashlib.blake2b(material, digest_size=8, person=b"sample-seed").digest()
    return int.from_bytes(digest, "big") >> 1


def sample_generator(seed: int) -> torch.Generator:
    """Make the generator of one sample.

    It lives on the CPU: the same seed gives the same noise whatever device the model runs on.

    Args:
        seed: A seed in [0, 2**63), usually from ``sample_seed``.
    """
    return torch.Generator(device="cpu").manual_seed(seed)


def draw_noise(
    shape: Sequence[int], *, generators: Generators = None, device: torch.device | str = "cpu"
) -> Tensor:
    """Draw standard normal noise for a batch.

    Args:
        shape: Shape of the batch, samples first: [B, ...].
        generators: One generator per sample (the noise of a sample then does not depend on its
            neighbours), a single one for the batch, or None for torch's global state.

    Returns:
        float32 noise of the given shape.

    Raises:
        ShapeError: If there are not exactly B generators.
    """
    if generators is None:
        return torch.randn(*shape, device=device)
    if isinstance(generators, torch.Generator):
        return torch.randn(*shape, generator=generators, device=generators.device).to(device)
    if len(generators) != shape[0]:
        raise ShapeError(
            f"generators: wanted one for each of {shape[0]} samples, found {len(generators)}"
        )
    rows = [torch.randn(*shape[1:], generator=each, device=each.device) for each in generators]
    return torch.stack(rows).to(device)
