"""What can be known of a frozen backbone without loading it: files, headers, what fits together.

Only small files and the headers of weights are read, so that looking at a model of many gigabytes
takes a moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perception.diffusion.backbone_files import (
    CONFIG_FILES,
    WEIGHT_STEMS,
    find_local_backbone_files,
)
from perception.diffusion.schedule import NoiseSchedule
from perception.diffusion.single_file import PREFIXES, expect_fitting_config
from perception.model_files import expect_content, read_json
from perception.model_headers import NetworkHeaders, read_network
from perception.weight_files import read_header
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def read_diffusion_headers(
    path_or_id: str | Path, *, variant: str | None = None, config: str | Path | None = None
) -> dict[str, NetworkHeaders] | None:
    """Check a Stable Diffusion checkpoint as far as its small files and headers tell.

    Args:
        path_or_id: As for ``load_backbone``.
        variant: Preferred variant of weights.
        config: Folder or hub name of the configurations of a file of all weights.

    Returns:
        ``vae``, ``unet`` and ``text_encoder``; None for a name on the hub that is not (completely)
        in the cache and may be downloaded later.

    Raises:
        ConfigError: If a file is missing, damaged, cut off or a pointer of git-lfs, if the weights
            are not safetensors, several variants leave a choice, or the parts do not fit together;
            or if the model is not in the cache and HF_HUB_OFFLINE is set.
    """
    files = find_local_backbone_files(path_or_id, variant=variant, config=config)
    if files is None:
        return None
    if files.checkpoint is None:
        found = {
            part: read_network(files.folder / part, weights)
            for part, weights in files.weights.items()
        }
    else:
        found = _read_checkpoint(files.folder, files.checkpoint)
    for path in files.by_name.values():
        expect_content(path)
    for name in CONFIG_FILES:
        read_json(files.folder / name)
    NoiseSchedule.from_config(read_json(files.folder / "scheduler/scheduler_config.json"))
    expect_fitting_parts(files.folder, {part: each.config for part, each in found.items()})
    return found


def expect_fitting_parts(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that autoencoder, U-Net and text encoder belong together.

    Args:
        folder: Named in the message.
        configs: Configurations of ``vae``, ``unet`` and ``text_encoder``.

    Raises:
        ConfigError: If they do not.
    """
    vae, unet, text = configs["vae"], configs["unet"], configs["text_encoder"]
    latent_channels = vae.get("latent_channels", 4)
    pairs = (
        ("in_channels", unet.get("in_channels", 4), latent_channels),
        ("out_channels", unet.get("out_channels", 4), latent_channels),
        (
            "cross_attention_dim",
            unet.get("cross_attention_dim", 1280),
            text.get("hidden_size", 512),
        ),
    )
    for name, found, wanted in pairs:
        if found != wanted:
            raise ConfigError(
                f"{folder}: wanted U-Net {name} {wanted} to fit the autoencoder and text encoder, "
                f"found {found}; use a Stable Diffusion v1 or v2 for text-to-image (no SDXL, no "
                "inpainting, no upscaling)"
            )


def _read_checkpoint(folder: Path, path: Path) -> dict[str, NetworkHeaders]:
    """Sort the tensors of one file of all weights by network.

    Raises:
        ConfigError: If the configurations are those of another model.
    """
    tensors = read_header(path)
    configs = {part: read_json(folder / part / "config.json") for part in WEIGHT_STEMS}
    expect_fitting_config(path, tensors, configs["unet"])
    found = {}
    for part, prefix in PREFIXES.items():
        own = {name: each for name, each in tensors.items() if name.startswith(prefix)}
        found[part] = NetworkHeaders(
            config=configs[part],
            tensors={name.removeprefix(prefix): each for name, each in own.items()},
            variant=None,
            num_bytes=sum(each.num_bytes for each in own.values()),
        )
    return found
