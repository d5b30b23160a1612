"""A furnished room from a seed: what stands where, independent of any renderer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kit.renderer import furniture, materials
from kit.renderer.furniture import SceneObject, box, cylinder
from kit.renderer.shapes import Matrix, translation, turn

if TYPE_CHECKING:
    from kit.renderer.materials import Material

SLAB_HALF_M = 0.05
LAYOUT_STREAM = 1
MAIN_PIECES = ("bed", "sofa", "table")
EXTRA_PIECES = (
    "bed",
    "sofa",
    "table",
    "cabinet",
    "cabinet",
    "chair",
    "chair",
    "shelf",
    "lamp",
    "plant",
    "crate",
    "television",
)
WALL_COLOURS = ("white", "white", "white", "white", "yellow", "yellow", "green", "blue", "red")
FLOOR_COLOURS = (
    "brown",
    "brown",
    "brown",
    "brown",
    "grey",
    "grey",
    "white",
    "red",
    "blue",
    "green",
)


@dataclass(frozen=True)
class Footprint:
    """An occupied axis-aligned rectangle of the floor: centre and half sizes in metres."""

    x_m: float
    z_m: float
    half_x_m: float
    half_z_m: float

    def is_clear_of(self, other: Footprint, gap_m: float) -> bool:
        """Say whether at least `gap_m` lies between the two rectangles along x or z."""
        return (
            abs(self.x_m - other.x_m) > self.half_x_m + other.half_x_m + gap_m
            or abs(self.z_m - other.z_m) > self.half_z_m + other.half_z_m + gap_m
        )


@dataclass
class Room:
    """A room centred on the origin of the floor, y up, inner sizes in metres."""

    seed: int
    width_m: float
    depth_m: float
    height_m: float
    objects: list[SceneObject] = field(default_factory=list)
    footprints: list[Footprint] = field(default_factory=list)


def build_room(seed: int) -> Room:
    """Return the furnished room of a seed; the same seed always gives the same room."""
    rng = np.random.default_rng([seed, LAYOUT_STREAM])
    room = Room(
        seed,
        width_m=float(rng.uniform(3.4, 5.4)),
        depth_m=float(rng.uniform(3.6, 5.8)),
        height_m=float(rng.uniform(2.4, 2.9)),
    )
    _add_shell(rng, room)
    for wall in range(4):
        _add_wall_item(rng, room, wall)
    _add_ceiling_light(rng, room)
    if rng.random() < 0.4:
        _add_rug(rng, room)
    main = str(rng.choice(MAIN_PIECES))
    others = [str(name) for name in rng.permutation(EXTRA_PIECES) if name != main]
    for name in [main, *others[: int(rng.integers(3, 7))]]:
        _place(rng, room, name)
    return room


def wall_frame(room: Room, wall: int) -> tuple[Matrix, float]:
    """Return the frame at the foot of one wall (+z into the room) and that wall's length."""
    width, depth = room.width_m, room.depth_m
    frames = (
        (translation(0, 0, -depth / 2), width),
        (translation(0, 0, depth / 2) @ turn(np.pi), width),
        (translation(-width / 2, 0, 0) @ turn(np.pi / 2), depth),
        (translation(width / 2, 0, 0) @ turn(-np.pi / 2), depth),
    )
    return frames[wall]


def _add_shell(rng: np.random.Generator, room: Room) -> None:
    width, depth, height = room.width_m / 2, room.depth_m / 2, room.height_m
    slab = SLAB_HALF_M
    origin = np.eye(4)
    colour = str(rng.choice(WALL_COLOURS))
    walls = materials.paint(rng, colour, wall=True)
    ceiling = materials.paint(rng, "white")
    room.objects.append(
        SceneObject("floor", [box(origin, (0, -slab, 0), (width, slab, depth), _flooring(rng))])
    )
    room.objects.append(
        SceneObject("ceiling", [box(origin, (0, height + slab, 0), (width, slab, depth), ceiling)])
    )
    for wall in range(4):
        frame, length = wall_frame(room, wall)
        panel = box(frame, (0, height / 2, -slab), (length / 2, height / 2, slab), walls)
        room.objects.append(SceneObject("wall", [panel]))


def _flooring(rng: np.random.Generator) -> Material:
    colour = str(rng.choice(FLOOR_COLOURS))
    if colour == "brown":
        return materials.planks(rng, colour)
    if colour in ("white", "grey") and rng.random() < 0.6:
        return materials.tiles(rng, colour)
    return materials.paint(rng, colour)


def _add_wall_item(rng: np.random.Generator, room: Room, wall: int) -> None:
    frame, length = wall_frame(room, wall)
    x = float(rng.uniform(-length / 4, length / 4))
    draw = rng.random()
    if draw < 0.35:
        _add_window(rng, room, frame, x)
    elif draw < 0.5:
        _add_door(rng, room, frame, x)
    elif draw < 0.85:
        half_w, half_h = (float(size) for size in rng.uniform(0.2, 0.45, 2))
        y = float(rng.uniform(1.45, 1.75))
        border = materials.paint(rng, str(rng.choice(["black", "white", "brown"])))
        parts = [
            box(frame, (x, y, 0.012), (half_w + 0.04, half_h + 0.04, 0.012), border),
            box(frame, (x, y, 0.02), (half_w, half_h, 0.012), materials.canvas(rng)),
        ]
        room.objects.append(SceneObject("picture", parts))


def _add_window(rng: np.random.Generator, room: Room, frame: Matrix, x: float) -> None:
    half_w, half_h = float(rng.uniform(0.5, 0.9)), float(rng.uniform(0.45, 0.65))
    y = float(rng.uniform(1.35, 1.55))
    sky = materials.light((0.75, 0.88, 1.0), float(rng.uniform(2.5, 5.0)))
    bar = materials.paint(rng, "white")
    parts = [box(frame, (x, y, 0.01), (half_w, half_h, 0.012), sky)]
    for side in (-1, 0, 1):
        parts.append(box(frame, (x + side * half_w, y, 0.03), (0.035, half_h + 0.035, 0.03), bar))
        parts.append(box(frame, (x, y + side * half_h, 0.03), (half_w + 0.035, 0.035, 0.03), bar))
    room.objects.append(SceneObject("window", parts))
    if rng.random() < 0.6:
        cloth = materials.paint(rng, str(rng.choice(["red", "blue", "green", "yellow", "white"])))
        for side in (-1, 1):
            folds = [
                cylinder(
                    frame,
                    (x + side * (half_w + 0.06 + 0.1 * fold), 0.2, 0.1),
                    0.06,
                    y + half_h,
                    cloth,
                )
                for fold in range(3)
            ]
            room.objects.append(SceneObject("curtain", folds))


def _add_door(rng: np.random.Generator, room: Room, frame: Matrix, x: float) -> None:
    leaf = materials.paint(rng, str(rng.choice(["brown", "white", "brown"])))
    handle = materials.paint(rng, "black")
    parts = [
        box(frame, (x, 1.0, 0.02), (0.45, 1.0, 0.025), leaf),
        box(frame, (x + 0.36, 1.0, 0.06), (0.07, 0.02, 0.02), handle),
    ]
    room.objects.append(SceneObject("door", parts))


def _add_ceiling_light(rng: np.random.Generator, room: Room) -> None:
    half_w, half_d = float(rng.uniform(0.35, 0.6)), float(rng.uniform(0.3, 0.5))
    x = float(rng.uniform(-0.15, 0.15)) * room.width_m
    z = float(rng.uniform(-0.15, 0.15)) * room.depth_m
    tint = (1.0, float(rng.uniform(0.93, 1.0)), float(rng.uniform(0.84, 0.98)))
    # Radiance in proportion to floor area over lamp area: rooms of every size are lit alike.
    radiance = (
        0.9 * room.width_m * room.depth_m / (4 * half_w * half_d) * float(rng.uniform(0.8, 1.25))
    )
    panel = box(
        np.eye(4),
        (x, room.height_m - 0.03, z),
        (half_w, 0.03, half_d),
        materials.light(tint, radiance),
    )
    room.objects.append(SceneObject("lamp", [panel]))


def _add_rug(rng: np.random.Generator, room: Room) -> None:
    colour = str(rng.choice(["red", "blue", "green", "yellow", "white", "black"]))
    cloth = materials.stripes(rng, colour) if rng.random() < 0.5 else materials.paint(rng, colour)
    x, z = (float(shift) for shift in rng.uniform(-0.5, 0.5, 2))
    at = translation(x, 0.008, z) @ turn(float(rng.uniform(-0.3, 0.3)))
    half = (float(rng.uniform(0.7, 1.2)), 0.008, float(rng.uniform(0.6, 1.0)))
    room.objects.append(SceneObject("rug", [box(at, (0, 0, 0), half, cloth)]))


def _place(rng: np.random.Generator, room: Room, name: str, *, tries: int = 25) -> None:
    """Add one piece where it fits; leave it out when no free place is found."""
    builder, half_w, half_d, may_stand_free = furniture.CATALOGUE[name]
    half_w *= float(rng.uniform(0.88, 1.12))
    half_d *= float(rng.uniform(0.9, 1.1))
    for _ in range(tries):
        if may_stand_free and rng.random() < 0.6:
            at, footprint = _free_place(rng, room, half_w, half_d)
        else:
            at, footprint = _place_at_wall(rng, room, half_w, half_d)
        if all(footprint.is_clear_of(other, 0.06) for other in room.footprints):
            room.footprints.append(footprint)
            room.objects.extend(builder(rng, at, half_w, half_d))
            return


def _free_place(
    rng: np.random.Generator, room: Room, half_w: float, half_d: float
) -> tuple[Matrix, Footprint]:
    reach = float(np.hypot(half_w, half_d))
    x = float(rng.uniform(-1, 1)) * (room.width_m / 2 - reach)
    z = float(rng.uniform(-1, 1)) * (room.depth_m / 2 - reach)
    at = translation(x, 0, z) @ turn(float(rng.uniform(0, 2 * np.pi)))
    return at, Footprint(x, z, reach * 0.85, reach * 0.85)


def _place_at_wall(
    rng: np.random.Generator, room: Room, half_w: float, half_d: float
) -> tuple[Matrix, Footprint]:
    wall = int(rng.integers(4))
    frame, length = wall_frame(room, wall)
    at = frame @ translation(
        float(rng.uniform(-1, 1)) * (length / 2 - half_w - 0.05), 0, half_d + 0.06
    )
    half_x, half_z = (half_w, half_d) if wall < 2 else (half_d, half_w)
    return at, Footprint(float(at[0, 3]), float(at[2, 3]), half_x, half_z)
