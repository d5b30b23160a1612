"""Which safetensors files hold a network's weights, and what their headers say; nothing is loaded.

A header is a length (eight bytes) and that many bytes of JSON. Only those are read here.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perception.model_files import expect_content, read_json
from schemas.errors import ConfigError
from schemas.plain_files import open_plain

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MAX_HEADER_BYTES = 25_000_000
"""A hundred bytes a tensor are usual, and networks have some thousands of tensors."""

_CONVERTIBLE = (".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5")
_OTHER_FORMATS = (*_CONVERTIBLE, ".onnx", ".gguf")
_LIBRARIES = {"_class_name": "diffusers", "architectures": "transformers"}


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFiles:
    """The files of one network.

    Attributes:
        variant: What stands in their names, for instance ``fp16``; None: nothing.
        files: In name order.
        index: Says which of several files holds which tensor; None if there is one file.
    """

    variant: str | None
    files: tuple[Path, ...]
    index: Path | None


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """One tensor as a header describes it.

    Attributes:
        dtype: As safetensors writes it: ``F32``, ``F16``, ``BF16``, ...
    """

    dtype: str
    shape: tuple[int, ...]
    num_bytes: int


def find_weights(folder: Path, stem: str, *, variant: str | None = None) -> WeightFiles:
    """Find the safetensors files of a network.

    The files of the named variant are taken; else the plain ones; else those of the only variant
    that there is.

    Args:
        stem: ``diffusion_pytorch_model`` for diffusers, ``model`` for transformers.
        variant: For instance ``fp16``; None: no preference.

    Raises:
        ConfigError: If there are none, one of several is missing, or a variant has to be chosen.
    """
    found = _by_variant(folder, stem)
    if not found:
        raise ConfigError(_no_weights(folder, stem))
    if variant not in found:
        variant = None if None in found else _only_variant(folder, found, wanted=variant)
    files = tuple(sorted(found[variant]))
    return WeightFiles(variant=variant, files=files, index=_index(folder, stem, variant, files))


def read_header(path: Path) -> dict[str, TensorHeader]:
    """Read the names, types and shapes of the tensors of a safetensors file.

    Raises:
        ConfigError: If the file is none, is cut off, or is a pointer of git-lfs.
    """
    expect_content(path)
    with open_plain(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise ConfigError(
                _no_safetensors(path, f"its header cannot have {length} bytes, the file {size}")
            )
        text = stream.read(length)
    try:
        content = json.loads(text)
        content.pop("__metadata__", None)
        tensors = {name: _tensor(each) for name, each in content.items()}
        ends = [int(each["data_offsets"][1]) for each in content.values()]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ConfigError(_no_safetensors(path, "its header is damaged")) from error
    wanted = 8 + length + max(ends, default=0)
    if wanted != size:
        raise ConfigError(
            _no_safetensors(path, f"its header tells of {wanted} bytes, the file has {size}")
        )
    return tensors


def read_headers(files: Iterable[Path]) -> dict[str, TensorHeader]:
    """Read the headers of all files of a network as one.

    Raises:
        ConfigError: As :func:`read_header`.
    """
    return {name: tensor for path in files for name, tensor in read_header(path).items()}


def how_to_convert(folder: Path) -> str:
    """Say how weights of another format become safetensors: once, by the library they are of."""
    try:
        config = read_json(folder / "config.json")
    except (ConfigError, OSError):
        config = {}
    for field, library in _LIBRARIES.items():
        name = config.get(field)
        name = name[0] if isinstance(name, list) and name else name
        if isinstance(name, str) and name.isidentifier():
            return (
                "if you trust where they come from, convert them once: "
                f'python -c "from {library} import {name} as M; '
                f"M.from_pretrained('{folder.absolute()}').save_pretrained('{folder.absolute()}')\""
            )
    return "convert other weights with save_pretrained(..., safe_serialization=True)"


def _by_variant(folder: Path, stem: str) -> dict[str | None, list[Path]]:
    part = r"(?:-\d+-of-\d+)?"
    name = re.compile(rf"{re.escape(stem)}(?:\.(\w+))?{part}(?:\.(\w+))?\.safetensors")
    found: dict[str | None, list[Path]] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        match = name.fullmatch(path.name)
        # A pipe or a device is never read.
        if match and path.is_file():
            found.setdefault(match[1] or match[2], []).append(path)
    return found


def _only_variant(
    folder: Path, found: dict[str | None, list[Path]], *, wanted: str | None
) -> str | None:
    names = sorted(each for each in found if each is not None)
    if wanted is not None:
        raise ConfigError(
            f"{folder}: wanted weights of the variant {wanted!r}, found {', '.join(names)}; name "
            "one of these, or leave the variant out"
        )
    if len(names) > 1:
        raise ConfigError(
            f"{folder}: found weights of the variants {', '.join(names)} and no plain ones; name "
            "one in model.variant"
        )
    return names[0]


def _index(folder: Path, stem: str, variant: str | None, files: tuple[Path, ...]) -> Path | None:
    """Find the index of weights in several files.

    Raises:
        ConfigError: If it is missing or damaged, or one of the files is missing.
    """
    middle = f".{variant}" if variant else ""
    if folder / f"{stem}{middle}.safetensors" in files:
        return None
    index = folder / f"{stem}.safetensors.index{middle}.json"
    if not index.is_file():
        raise ConfigError(
            f"{folder}: found {files[0].name}, one of several files, and no {index.name} that says "
            "which tensor is where; copy the whole folder"
        )
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise ConfigError(f"{index}: wanted a weight_map; copy the file again")
    missing = sorted({str(name) for name in places.values()} - {path.name for path in files})
    if missing:
        raise ConfigError(
            f"{folder}: {len(missing)} of the files that {index.name} names are missing, first "
            f"{missing[0]:.200}; copy the whole folder"
        )
    return index


def _no_weights(folder: Path, stem: str) -> str:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    others = [name for name in names if name.endswith(_OTHER_FORMATS)]
    remedy = "download the model's safetensors" if others else "copy the whole folder again"
    if any(name.endswith(_CONVERTIBLE) for name in others):
        remedy = how_to_convert(folder)
    found = ", ".join(others or names)[:300] or "nothing"
    return (
        f"{folder}: wanted {stem}.safetensors, found {found}; only safetensors are read, {remedy}"
    )


def _tensor(description: Any) -> TensorHeader:
    start, end = description["data_offsets"]
    shape = tuple(int(side) for side in description["shape"])
    if not 0 <= start <= end or any(side < 0 for side in shape):
        raise ValueError
    return TensorHeader(dtype=str(description["dtype"]), shape=shape, num_bytes=end - start)


def _no_safetensors(path: Path, why: str) -> str:
    return f"{path}: wanted a safetensors file, but {why}; copy or download it again"
