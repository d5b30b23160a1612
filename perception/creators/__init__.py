"""Creators that learn: networks that make images, chosen by the table below."""

from __future__ import annotations

NETWORKS: dict[str, str] = {
    "gaussian": "perception.creators.denoiser",
    "halfway": "perception.creators.denoiser",
    "jointnet": "perception.creators.pairs",
    "mtdiffusion": "perception.creators.pairs",
}
"""``creator.kind`` to the module whose ``make(config, backbone)`` makes what learns."""
