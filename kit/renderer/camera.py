"""Cameras inside a room and the frame that labels are given in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kit.renderer.layout import Room


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        eye: float64 [3], position in world metres.
        target: float64 [3], point looked at.
        fov_deg: horizontal field of view of the square image.
    """

    eye: NDArray[np.float64]
    target: NDArray[np.float64]
    fov_deg: float

    def axes(self) -> NDArray[np.float64]:
        """Return [3, 3] whose rows are right, up and backward (toward the camera) in the world."""
        forward = self.target - self.eye
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 1.0, 0.0])
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(right, forward), -forward])


def propose(rng: np.random.Generator, room: Room, *, tries: int = 100) -> Camera:
    """Return a camera standing on free floor that looks at a piece of furniture."""
    for _ in range(tries):
        eye_x = float(rng.uniform(-1, 1)) * (room.width_m / 2 - 0.3)
        eye_z = float(rng.uniform(-1, 1)) * (room.depth_m / 2 - 0.3)
        focus_x, focus_z = _focus(rng, room)
        is_free = all(
            abs(eye_x - f.x_m) > f.half_x_m + 0.2 or abs(eye_z - f.z_m) > f.half_z_m + 0.2
            for f in room.footprints
        )
        if is_free and 1.7 < np.hypot(eye_x - focus_x, eye_z - focus_z) < 4.5:
            break
    eye = np.array([eye_x, float(rng.uniform(1.2, 1.75)), eye_z])
    target = np.array([focus_x, float(rng.uniform(0.35, 0.85)), focus_z])
    return Camera(eye, target, float(rng.uniform(60, 75)))


def _focus(rng: np.random.Generator, room: Room) -> tuple[float, float]:
    if not room.footprints:
        return 0.0, 0.0
    piece = room.footprints[int(rng.integers(len(room.footprints)))]
    shift_x, shift_z = rng.uniform(-0.6, 0.6, 2)
    return piece.x_m * 0.85 + float(shift_x), piece.z_m * 0.85 + float(shift_z)
