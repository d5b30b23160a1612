"""Whether images of the source's size can be learnt from in memory; no sample is read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from runs.checks.machine import cluster_address
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perception.model_headers import NetworkHeaders
    from schemas.config import RunConfig

MAX_PIXELS = 2**24
"""Of one image, on any machine."""

_DEFAULT_CHANNELS = 64
_BYTES_PER_NUMBER = 2
_GB = 1e9


def expect_size(
    config: RunConfig,
    networks: Mapping[str, NetworkHeaders] | None,
    image_size: tuple[int, int],
) -> None:
    """Compare what the first layer of the autoencoder alone takes for an image with the memory.

    Args:
        networks: Headers of the diffusion model; None if they are not known.

    Raises:
        ConfigError: If an image has more than :data:`MAX_PIXELS`, or this machine, where it is the
            one that works, has not enough memory for one.
    """
    height, width = image_size
    wanted = _bytes_of_layer(networks, height * width)
    limits = [f"at most {MAX_PIXELS} pixels are read"] if height * width > MAX_PIXELS else []
    if cluster_address(config) is None and wanted > (there := _memory_bytes()):
        limits.append(f"this machine has {there / _GB:.1f} GB of memory")
    if limits:
        raise ConfigError(
            f"images of {height} x {width} (rows x columns): the first layer of the autoencoder "
            f"alone takes {wanted / _GB:.1f} GB for one image, and {' and '.join(limits)}; make "
            "size: of the source's description smaller, such as [512, 512]"
        )


def _bytes_of_layer(networks: Mapping[str, NetworkHeaders] | None, pixels: int) -> int:
    """What goes in and comes out: both are there while it is computed."""
    vae = {} if networks is None else networks["vae"].config
    channels = next(iter(vae.get("block_out_channels", ())), _DEFAULT_CHANNELS)
    return 2 * pixels * int(channels) * _BYTES_PER_NUMBER


def _memory_bytes() -> int:
    """The larger of the memories of processor and accelerators."""
    import torch

    of_machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    devices = range(torch.cuda.device_count())
    return max([of_machine, *(torch.cuda.get_device_properties(i).total_memory for i in devices)])
