"""Model folders in the other forms that people have: variants of weights, weights in shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

WEIGHTS = (
    "vae/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
)


def with_variant(path: Path, variant: str, *, keep: bool = False) -> Path:
    """Give a file of weights the name of a variant; ``keep`` the plain one too."""
    named = path.with_name(f"{path.stem}.{variant}.safetensors")
    return Path(shutil.copy(path, named) if keep else path.rename(named))


def with_shards(folder: Path, variant: str | None = None, *, count: int = 3) -> None:
    """Split the one file of weights in a folder as ``save_pretrained`` does."""
    path = next(folder.glob("*.safetensors"))
    middle = f".{variant}" if variant else ""
    tensors, places = load_file(path), {}
    for number in range(count):
        name = f"{path.stem}{middle}-{number + 1:05}-of-{count:05}.safetensors"
        part = dict(list(tensors.items())[number::count])
        save_file(part, folder / name, {"format": "pt"})
        places.update(dict.fromkeys(part, name))
    size = sum(each.numel() * each.element_size() for each in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / f"{path.stem}.safetensors.index{middle}.json").write_text(json.dumps(index))
    path.unlink()
