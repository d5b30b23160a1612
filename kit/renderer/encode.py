"""File contents of a rendered view, as they stand in a shard."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kit.renderer.render import RoomView

MILLIMETRES = 1000.0
MAX_DEPTH_MM = 65535


def sample_key(seed: int, view: int) -> str:
    """Return the key of a view: letters, digits and underscores only."""
    return f"room_{seed:06d}_{view}"


def encode_view(view: RoomView, *, images_only: bool = False) -> dict[str, bytes]:
    """Return the members of a sample by extension, the json last.

    `image.png` is RGB; `normals.png` is 8-bit RGB with n = 2 v / 255 - 1; `depth.png` is uint16
    millimetres; `semseg.png` is uint8 class ids.

    Args:
        images_only: leave the labels out, for training without labels.
    """
    members = {"image.png": _png(view.image)}
    if not images_only:
        normals = np.rint((view.normals.astype(np.float64) + 1) * 127.5).clip(0, 255)
        normals[~view.normals.any(axis=-1)] = 0
        depth = np.rint(view.depth.astype(np.float64) * MILLIMETRES).clip(0, MAX_DEPTH_MM)
        members["normals.png"] = _png(normals.astype(np.uint8))
        members["depth.png"] = _png(depth.astype(np.uint16))
        members["semseg.png"] = _png(view.semseg)
    members["json"] = json.dumps(_facts(view), sort_keys=True).encode()
    return members


def _facts(view: RoomView) -> dict[str, Any]:
    return {
        "caption": view.caption,
        "seed": view.seed,
        "view": view.view,
        "camera": {
            "fov_deg": round(view.camera.fov_deg, 6),
            "eye_m": [round(float(value), 6) for value in view.camera.eye],
            "target_m": [round(float(value), 6) for value in view.camera.target],
        },
    }


def _png(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
