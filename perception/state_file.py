"""A module's tensors to and from one safetensors byte string."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from schemas.digest import sha256_of
from schemas.errors import WeightsMismatchError

if TYPE_CHECKING:
    from collections.abc import Mapping

_SHOWN = 5


def state_to_bytes(module: nn.Module) -> bytes:
    """Serialise parameters and buffers, integer ones too; equal states give equal bytes."""
    return save(
        {
            name: tensor.detach().cpu().contiguous().clone()
            for name, tensor in module.state_dict().items()
        }
    )


def load_state_bytes(module: nn.Module, data: bytes) -> None:
    """Copy a serialised state into a module's tensors, in place; all of it or nothing.

    Args:
        module: Takes the state; its tensors keep their storage and device.
        data: What :func:`state_to_bytes` returned for a module of the same make.

    Raises:
        WeightsMismatchError: If the bytes are no safetensors file; if names, shapes or types
            differ; or if a number is infinite or none, where the module's own are finite.
    """
    try:
        found = load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        # The last three where the header names types or sizes that torch does not have.
        raise WeightsMismatchError(
            f"wanted a safetensors file, found {error}; fetch the weights again"
        ) from error
    wanted = module.state_dict()
    _check_same(wanted, found)
    _check_finite(wanted, found)
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(found[name])


def keys_digest(module: nn.Module) -> str:
    """Return the SHA-256 of names, shapes and types: equal for modules that can exchange states."""
    described = "\n".join(
        f"{name} {_describe(tensor)}" for name, tensor in sorted(module.state_dict().items())
    )
    return sha256_of(described.encode())


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _check_finite(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Refuse weights that would spoil every prediction; masks may hold infinity by design.

    Raises:
        WeightsMismatchError: Naming the tensors.
    """
    spoilt = [
        name
        for name, tensor in found.items()
        if not torch.isfinite(tensor).all() and torch.isfinite(wanted[name]).all()
    ]
    if spoilt:
        raise WeightsMismatchError(
            f"wanted finite weights, found not finite numbers in {len(spoilt)} tensors "
            f"({', '.join(sorted(spoilt)[:_SHOWN])}); use an earlier version"
        )


def _check_same(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Compare two states by names, shapes and types.

    Raises:
        WeightsMismatchError: Naming what is missing, unexpected or differing.
    """
    differing = [
        f"{name} (wanted {_describe(wanted[name])}, found {_describe(found[name])})"
        for name in wanted.keys() & found.keys()
        if _describe(wanted[name]) != _describe(found[name])
    ]
    problems = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unexpected": sorted(found.keys() - wanted.keys()),
        "differing": sorted(differing),
    }
    if any(problems.values()):
        named = "; ".join(
            f"{len(names)} {problem} ({', '.join(names[:_SHOWN])})"
            for problem, names in problems.items()
            if names
        )
        raise WeightsMismatchError(
            f"wanted the {len(wanted)} tensors of the module, found {named}; "
            "use weights of the same method, tasks and backbone"
        )
