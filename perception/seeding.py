"""Random numbers that belong to a sample, not to the batch or machine that happens to draw them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import torch
from torch import Tensor

from perception.shapes import ShapeError

_MOST_SEED = 2**63 - 1

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


def draw_seeds(generators: Generators, num_images: int) -> Tensor:
    """Draw a seed for each image of a batch, int64 [B] in [0, 2**63 - 1), on the CPU.

    Args:
        generators: As of :func:`draw_noise`.

    Raises:
        ShapeError: If there are not exactly B generators.
    """
    if generators is None or isinstance(generators, torch.Generator):
        return torch.randint(_MOST_SEED, (num_images,), generator=generators)
    _expect_one_each(generators, num_images)
    return torch.cat([torch.randint(_MOST_SEED, (1,), generator=each) for each in generators])


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
    _expect_one_each(generators, shape[0])
    rows = [torch.randn(*shape[1:], generator=each, device=each.device) for each in generators]
    return torch.stack(rows).to(device)


def _expect_one_each(generators: Sequence[torch.Generator], num_samples: int) -> None:
    if len(generators) != num_samples:
        raise ShapeError(
            f"generators: wanted one for each of {num_samples} samples, found {len(generators)}"
        )
