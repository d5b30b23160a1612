"""Furniture: each builder returns the objects of one piece, standing at a frame on the floor.

A frame is a 4x4 matrix whose origin lies on the floor, y up, and whose +z is the piece's front.
`w` and `d` are half the width and half the depth in metres.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kit.renderer import materials
from kit.renderer.shapes import Matrix, ShapeKind, scaling, translation, turn

if TYPE_CHECKING:
    from kit.renderer.materials import Material


@dataclass(frozen=True)
class Part:
    """One unit mesh, its 4x4 world matrix and its surface."""

    kind: ShapeKind
    matrix: Matrix
    material: Material


@dataclass(frozen=True)
class SceneObject:
    """One object of one semantic class, made of parts."""

    class_name: str
    parts: list[Part]


Builder = Callable[[np.random.Generator, Matrix, float, float], list[SceneObject]]


def box(
    at: Matrix,
    centre: tuple[float, float, float],
    half: tuple[float, float, float],
    material: Material,
) -> Part:
    """Return a box with its centre and half sizes given in the frame `at`."""
    return Part("box", at @ translation(*centre) @ scaling(*half), material)


def cylinder(
    at: Matrix, foot: tuple[float, float, float], radius: float, height: float, material: Material
) -> Part:
    """Return an upright cylinder standing on `foot` in the frame `at`."""
    return Part("cylinder", at @ translation(*foot) @ scaling(radius, height, radius), material)


def ball(
    at: Matrix,
    centre: tuple[float, float, float],
    half: tuple[float, float, float],
    material: Material,
) -> Part:
    """Return an ellipsoid with its centre and half axes given in the frame `at`."""
    return Part("sphere", at @ translation(*centre) @ scaling(*half), material)


def bed(rng: np.random.Generator, at: Matrix, w: float, d: float) -> list[SceneObject]:
    """A bed with its headboard against -z, a cover and pillows."""
    cover = _pick(rng, ("blue", "red", "white", "green", "yellow"))
    frame = _pick(rng, ("brown", "brown", "black"))
    height = float(rng.uniform(0.2, 0.3))
    headboard = float(rng.uniform(0.42, 0.55))
    parts = [
        box(at, (0, height / 2 + 0.04, 0), (w, height / 2, d), frame),
        box(at, (0, headboard, -d + 0.03), (w, headboard, 0.04), frame),
        box(at, (0, height + 0.14, 0.04), (w * 0.99, 0.13, d * 0.98), cover),
    ]
    objects = [SceneObject("bed", parts)]
    linen = materials.paint(rng, "white")
    for side in (-0.48, 0.48):
        pillow = ball(at, (side * w, height + 0.29, -d * 0.68), (w * 0.38, 0.09, d * 0.18), linen)
        objects.append(SceneObject("pillow", [pillow]))
    return objects


def sofa(rng: np.random.Generator, at: Matrix, w: float, d: float) -> list[SceneObject]:
    """A sofa with arms, a back and seat cushions of one colour."""
    cloth = _pick(rng, ("red", "blue", "green", "grey", "yellow", "brown"))
    cushion = materials.shade(cloth, 1.12)
    parts = [
        box(at, (0, 0.2, 0), (w, 0.2, d), cloth),
        box(at, (0, 0.45, -d + 0.1), (w, 0.42, 0.1), cloth),
        box(at, (-w + 0.09, 0.31, 0), (0.09, 0.31, d), cloth),
        box(at, (w - 0.09, 0.31, 0), (0.09, 0.31, d), cloth),
    ]
    seats = int(rng.integers(2, 4))
    for seat in range(seats):
        x = (-1 + (2 * seat + 1) / seats) * (w - 0.18)
        parts.append(box(at, (x, 0.45, 0.08), ((w - 0.2) / seats, 0.07, d - 0.16), cushion))
    objects = [SceneObject("sofa", parts)]
    if rng.random() < 0.5:
        x = float(rng.uniform(-0.5, 0.5)) * w
        pillow = ball(
            at, (x, 0.68, -d * 0.3), (0.2, 0.17, 0.09), _pick(rng, ("white", "yellow", "red"))
        )
        objects.append(SceneObject("pillow", [pillow]))
    return objects


def table(rng: np.random.Generator, at: Matrix, w: float, d: float) -> list[SceneObject]:
    """A table, four-legged or round, perhaps with a book or a cup on it."""
    wood = _pick(rng, ("brown", "brown", "white", "black"))
    height = float(rng.uniform(0.5, 0.76))
    if rng.random() < 0.3:
        parts = [
            cylinder(at, (0, height - 0.03, 0), w, 0.055, wood),
            cylinder(at, (0, 0, 0), 0.06, height, wood),
            cylinder(at, (0, 0, 0), w * 0.5, 0.03, wood),
        ]
    else:
        parts = [box(at, (0, height, 0), (w, 0.03, d), wood), *_legs(at, w, d, height, 0.035, wood)]
    objects = [SceneObject("table", parts)]
    x, z = rng.uniform(-0.5, 0.5, 2) * (w, d)
    draw = rng.random()
    if draw < 0.35:
        book = box(
            at @ translation(float(x), height + 0.06, float(z)) @ turn(float(rng.uniform(0, 3))),
            (0, 0, 0),
            (0.14, 0.03, 0.1),
            _pick(rng, ("red", "blue", "green", "white")),
        )
        objects.append(SceneObject("books", [book]))
    elif draw < 0.6:
        cup = cylinder(
            at,
            (float(x), height + 0.03, float(z)),
            0.05,
            0.13,
            _pick(rng, ("white", "red", "blue")),
        )
        objects.append(SceneObject("box", [cup]))
    return objects


def cabinet(rng: np.random.Generator, at: Matrix, w: float, d: float) -> list[SceneObject]:
    """A cabinet with one to three drawers."""
    body = _pick(rng, ("brown", "brown", "white", "blue", "green"))
    front = materials.shade(body, 1.15)
    knob = materials.paint(rng, "black")
    height = float(rng.uniform(0.75, 1.9))
    drawers = int(rng.integers(2, 4))
    parts = [box(at, (0, height / 2, 0), (w, height / 2, d), body)]
    for drawer in range(drawers):
        y = (drawer + 0.5) / drawers * height
        parts.append(box(at, (0, y, d), (w * 0.92, height / drawers * 0.43, 0.015), front))
        parts.append(box(at, (0, y, d + 0.03), (0.06, 0.02, 0.02), knob))
    return [SceneObject("cabinet", parts)]


def shelf(rng: np.random.Generator, at: Matrix, w: float, d: float) -> list[SceneObject]:
    """An open shelf with rows of books."""
    wood = _pick(rng, ("brown", "white", "black"))
    height = float(rng.uniform(1.1, 2.0))
    rows = int(rng.integers(3, 5))
    parts = [
        box(at, (-w, height / 2, 0), (0.025, height / 2, d), wood),
        box(at, (w, height / 2, 0), (0.025, height / 2, d), wood),
        box(at, (0, height / 2, -d + 0.01), (w, height / 2, 0.01), wood),
    ]
    parts += [box(at, (0, row * height / rows, 0), (w, 0.02, d), wood) for row in range(rows + 1)]
    objects = [SceneObject("shelf", parts)]
    for row in range(rows):
        spines = _book_row(rng, at, row * height / rows + 0.02, w, d, height / rows)
        objects.append(SceneObject("books", spines))
    return objects


def chair(rng: np.random.Generator, at: Matrix, w: float, d: float) -> list[SceneObject]:
    """A chair of one colour with a solid or a slatted back."""
    wood = _pick(rng, ("brown", "red", "blue", "black", "yellow", "green", "white"))
    height = float(rng.uniform(0.42, 0.48))
    back = float(rng.uniform(0.22, 0.28))
    parts = [box(at, (0, height, 0), (w, 0.035, d), wood), *_legs(at, w, d, height, 0.028, wood)]
    if rng.random() < 0.6:
        parts.append(box(at, (0, height + back + 0.06, -d + 0.03), (w, back, 0.03), wood))
    else:
        parts += [
            box(at, (x * w, height + back, -d + 0.03), (0.03, back, 0.025), wood)
            for x in (-0.88, -0.3, 0.3, 0.88)
        ]
        parts.append(box(at, (0, height + 2 * back, -d + 0.03), (w, 0.05, 0.03), wood))
    return [SceneObject("chair", parts)]


def lamp(rng: np.random.Generator, at: Matrix, w: float, _d: float) -> list[SceneObject]:
    """A standing lamp whose shade glows."""
    height = float(rng.uniform(1.2, 1.6))
    stand = materials.paint(rng, "black")
    glow = materials.light((1.0, 0.62, 0.16), float(rng.uniform(1.6, 2.4)))
    return [
        SceneObject(
            "lamp",
            [
                cylinder(at, (0, 0, 0), w * 0.8, 0.03, stand),
                cylinder(at, (0, 0, 0), 0.025, height, stand),
                cylinder(at, (0, height - 0.1, 0), w, 0.34, glow),
            ],
        )
    ]


def plant(rng: np.random.Generator, at: Matrix, w: float, _d: float) -> list[SceneObject]:
    """A leafy plant in a pot."""
    pot = _pick(rng, ("brown", "white"))
    leaf = materials.paint(rng, "green")
    parts = [cylinder(at, (0, 0, 0), w * 0.55, 0.26, pot)]
    for _ in range(int(rng.integers(6, 10))):
        x, y, z = rng.normal(0, 0.12, 3)
        spread = rng.uniform((0.09, 0.14, 0.07), (0.17, 0.26, 0.13))
        leaves = (
            at
            @ translation(float(x), 0.5 + 2 * abs(float(y)), float(z))
            @ turn(float(rng.uniform(0, 6)))
        )
        parts.append(
            ball(leaves, (0, 0, 0), (float(spread[0]), float(spread[1]), float(spread[2])), leaf)
        )
    return [SceneObject("plant", parts)]


def crate(rng: np.random.Generator, at: Matrix, w: float, d: float) -> list[SceneObject]:
    """A plain box on the floor."""
    height = float(rng.uniform(0.15, 0.28))
    return [
        SceneObject(
            "box",
            [box(at, (0, height, 0), (w, height, d), _pick(rng, ("brown", "yellow", "grey")))],
        )
    ]


def television(rng: np.random.Generator, at: Matrix, w: float, d: float) -> list[SceneObject]:
    """A black television on a low board."""
    height = float(rng.uniform(0.4, 0.55))
    board = _pick(rng, ("brown", "white"))
    case = materials.paint(rng, "black")
    screen = materials.shade(case, 0.6)
    return [
        SceneObject("cabinet", [box(at, (0, height / 2, 0), (w, height / 2, d), board)]),
        SceneObject(
            "tv",
            [
                box(at, (0, height + 0.45, 0), (w * 0.95, 0.38, 0.03), case),
                box(at, (0, height + 0.45, 0.031), (w * 0.9, 0.34, 0.004), screen),
                box(at, (0, height + 0.04, 0), (0.16, 0.04, 0.1), case),
            ],
        ),
    ]


# name -> builder, half width and half depth in metres, whether it may stand free of the walls
CATALOGUE: dict[str, tuple[Builder, float, float, bool]] = {
    "bed": (bed, 0.95, 1.02, False),
    "sofa": (sofa, 0.95, 0.46, False),
    "table": (table, 0.62, 0.46, True),
    "cabinet": (cabinet, 0.52, 0.27, False),
    "chair": (chair, 0.25, 0.25, True),
    "shelf": (shelf, 0.48, 0.18, False),
    "lamp": (lamp, 0.2, 0.2, False),
    "plant": (plant, 0.27, 0.27, False),
    "crate": (crate, 0.25, 0.22, True),
    "television": (television, 0.62, 0.22, False),
}


def _pick(rng: np.random.Generator, names: tuple[str, ...]) -> Material:
    return materials.paint(rng, names[int(rng.integers(len(names)))])


def _legs(
    at: Matrix, w: float, d: float, height: float, thick: float, material: Material
) -> list[Part]:
    return [
        box(
            at, (x * (w - thick), height / 2, z * (d - thick)), (thick, height / 2, thick), material
        )
        for x in (-1, 1)
        for z in (-1, 1)
    ]


def _book_row(
    rng: np.random.Generator, at: Matrix, floor_y: float, w: float, d: float, space: float
) -> list[Part]:
    spines: list[Part] = []
    x = -w + 0.05
    end = w * float(rng.uniform(0.2, 0.9))
    while x < end:
        thick = float(rng.uniform(0.022, 0.045))
        tall = space * float(rng.uniform(0.3, 0.42))
        cloth = _pick(rng, ("red", "blue", "green", "yellow", "white", "brown"))
        spines.append(box(at, (x + thick, floor_y + tall, 0), (thick, tall, d * 0.75), cloth))
        x += 2 * thick + 0.004
    return spines
