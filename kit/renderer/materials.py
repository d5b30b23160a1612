"""Surface materials: paints with a colour name, small textures and light-emitting surfaces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.float64]

TEXTURE_SIZE = 48

# Linear reflectances, far apart in hue or lightness so that a rendered colour keeps its name.
PAINT: dict[str, tuple[float, float, float]] = {
    "white": (0.84, 0.84, 0.82),
    "grey": (0.16, 0.16, 0.165),
    "black": (0.025, 0.025, 0.028),
    "brown": (0.27, 0.115, 0.045),
    "red": (0.55, 0.035, 0.035),
    "yellow": (0.82, 0.58, 0.04),
    "green": (0.07, 0.36, 0.08),
    "blue": (0.05, 0.14, 0.55),
}
WALL_PAINT: dict[str, tuple[float, float, float]] = {
    "white": (0.84, 0.84, 0.82),
    "red": (0.62, 0.17, 0.14),
    "yellow": (0.82, 0.67, 0.15),
    "green": (0.24, 0.52, 0.24),
    "blue": (0.20, 0.36, 0.74),
}


@dataclass(frozen=True, eq=False)
class Material:
    """A diffuse surface, optionally textured or emitting.

    Attributes:
        reflectance: linear RGB in [0, 1], [3] for a plain surface or [N, N, 3] for a texture.
        repeats: how often a texture repeats across a face.
        radiance: linear RGB emitted, or None for a surface that only reflects.
    """

    reflectance: NDArray[np.float64]
    repeats: float = 1.0
    radiance: Rgb | None = None


def paint(rng: np.random.Generator, name: str, *, wall: bool = False) -> Material:
    """Return a plain surface of a named colour with a little variation in lightness and tint."""
    return Material(_jittered(rng, (WALL_PAINT if wall else PAINT)[name]))


def shade(material: Material, factor: float) -> Material:
    """Return the same plain surface, lighter or darker by a factor."""
    return Material(np.clip(material.reflectance * factor, 0.01, 0.9))


def light(rgb: tuple[float, float, float], radiance: float) -> Material:
    """Return a surface that emits `radiance` in the given tint."""
    return Material(np.full(3, 0.5), radiance=np.asarray(rgb, dtype=float) * radiance)


def planks(rng: np.random.Generator, name: str) -> Material:
    """Return wooden boards around a named colour."""
    n = TEXTURE_SIZE
    base = _jittered(rng, PAINT[name])
    boards = int(rng.integers(4, 8))
    column = np.arange(n) * boards / n
    lightness = 1 + rng.uniform(-0.14, 0.14, boards)[column.astype(int)]
    texture = base * lightness[None, :, None] * (1 + rng.uniform(-0.05, 0.05, (n, n, 1)))
    texture[:, np.diff(column.astype(int), prepend=-1) > 0] *= 0.7
    return Material(np.clip(texture, 0.01, 0.9), repeats=float(rng.uniform(1.0, 2.0)))


def tiles(rng: np.random.Generator, name: str) -> Material:
    """Return a two-tone chequered floor around a named colour."""
    n = TEXTURE_SIZE
    base = _jittered(rng, PAINT[name])
    count = 2 * int(rng.integers(2, 4))
    cell = (np.arange(n) * count) // n
    chequer = (cell[:, None] + cell[None, :]) % 2
    contrast = float(rng.uniform(0.75, 0.9))
    texture = base * np.where(chequer, 1.0, contrast)[..., None]
    return Material(np.clip(texture, 0.01, 0.9), repeats=float(rng.uniform(1.0, 1.6)))


def stripes(rng: np.random.Generator, name: str) -> Material:
    """Return two-tone stripes of one named colour."""
    n = TEXTURE_SIZE
    base = _jittered(rng, PAINT[name])
    count = int(rng.integers(3, 7))
    band = ((np.arange(n) * 2 * count) // n) % 2
    texture = np.broadcast_to((base * np.where(band, 1.0, 0.72)[:, None])[None], (n, n, 3))
    return Material(np.clip(texture, 0.01, 0.9))


def canvas(rng: np.random.Generator) -> Material:
    """Return a small abstract painting: a plain ground with a few coloured rectangles."""
    n = TEXTURE_SIZE // 2
    names = list(PAINT)
    texture = np.tile(np.asarray(PAINT[str(rng.choice(names))]), (n, n, 1))
    for _ in range(int(rng.integers(2, 5))):
        top, left = rng.integers(0, n - 4, 2)
        height, width = rng.integers(4, n // 2 + 1, 2)
        texture[top : top + height, left : left + width] = PAINT[str(rng.choice(names))]
    return Material(texture)


def _jittered(rng: np.random.Generator, rgb: tuple[float, float, float]) -> Rgb:
    lightness = rng.uniform(0.88, 1.12)
    return np.clip(np.asarray(rgb) * lightness * rng.uniform(0.96, 1.04, 3), 0.01, 0.9)
