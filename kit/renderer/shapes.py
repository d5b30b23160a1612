"""Unit meshes and the affine transforms that place them, in a world with y up and metres."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
ShapeKind = Literal["box", "cylinder", "sphere"]

CYLINDER_SIDES = 14
SPHERE_RINGS = 7
SPHERE_SECTORS = 12


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh.

    Attributes:
        vertices: float64 [V, 3], metres.
        normals: float64 [V, 3], unit and outward.
        uv: float64 [V, 2], texture coordinates in [0, 1].
        faces: int64 [F, 3], counter-clockwise seen from outside.
    """

    vertices: NDArray[np.float64]
    normals: NDArray[np.float64]
    uv: NDArray[np.float64]
    faces: NDArray[np.int64]


def translation(x_m: float, y_m: float, z_m: float) -> Matrix:
    """Return the 4x4 matrix that moves by (x, y, z) metres."""
    matrix = np.eye(4)
    matrix[:3, 3] = (x_m, y_m, z_m)
    return matrix


def scaling(x: float, y: float, z: float) -> Matrix:
    """Return the 4x4 matrix that scales each axis."""
    return np.diag([x, y, z, 1.0])


def turn(angle_rad: float) -> Matrix:
    """Return the 4x4 rotation about the vertical axis."""
    cos, sin = float(np.cos(angle_rad)), float(np.sin(angle_rad))
    matrix = np.eye(4)
    matrix[0, 0], matrix[0, 2] = cos, sin
    matrix[2, 0], matrix[2, 2] = -sin, cos
    return matrix


@cache
def unit_mesh(kind: ShapeKind) -> Mesh:
    """Return the unit mesh of a kind.

    Box: [-1, 1] cubed. Cylinder: radius 1, closed, y in [0, 1]. Sphere: radius 1.
    """
    builders = {"box": _box, "cylinder": _cylinder, "sphere": _sphere}
    return _outward(builders[kind]())


def transformed(mesh: Mesh, matrix: Matrix) -> Mesh:
    """Apply an affine map; normals take its inverse transpose and stay unit."""
    linear = matrix[:3, :3]
    vertices = mesh.vertices @ linear.T + matrix[:3, 3]
    normals = mesh.normals @ np.linalg.inv(linear)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return Mesh(vertices, normals, mesh.uv, mesh.faces)


def merged(meshes: list[Mesh]) -> Mesh:
    """Join meshes into one, so that a scene needs fewer shapes."""
    counts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.normals for mesh in meshes]),
        np.concatenate([mesh.uv for mesh in meshes]),
        np.concatenate(
            [mesh.faces + int(offset) for mesh, offset in zip(meshes, counts, strict=True)]
        ),
    )


def _outward(mesh: Mesh) -> Mesh:
    """Wind every face so that its geometric normal agrees with the vertex normals."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    geometric = np.cross(b - a, c - a)
    agrees = np.einsum("fk,fk->f", geometric, mesh.normals[mesh.faces].sum(1)) >= 0
    faces = np.where(agrees[:, None], mesh.faces, mesh.faces[:, ::-1])
    return Mesh(mesh.vertices, mesh.normals, mesh.uv, faces)


def _box() -> Mesh:
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=float)
    vertices: list[NDArray[np.float64]] = []
    normals: list[NDArray[np.float64]] = []
    uv: list[NDArray[np.float64]] = []
    faces: list[tuple[int, int, int]] = []
    for axis in range(3):
        for side in (-1.0, 1.0):
            base = 4 * len(faces) // 2
            face = np.insert(corners, axis, side, axis=1)
            normal = np.zeros(3)
            normal[axis] = side
            vertices.append(face)
            normals.append(np.tile(normal, (4, 1)))
            uv.append(corners * 0.5 + 0.5)
            faces += [(base, base + 1, base + 2), (base, base + 2, base + 3)]
    return Mesh(
        np.concatenate(vertices), np.concatenate(normals), np.concatenate(uv), np.array(faces)
    )


def _cylinder() -> Mesh:
    sides = CYLINDER_SIDES
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    ring = np.stack([np.cos(angle), np.zeros_like(angle), np.sin(angle)], axis=1)
    up = np.array([0.0, 1.0, 0.0])
    along = np.linspace(0, 1, sides + 1)
    vertices = [ring, ring + up]
    normals = [ring, ring]
    uv = [np.stack([along, 0 * along], 1), np.stack([along, 0 * along + 1], 1)]
    n = sides + 1
    faces = [(i, i + 1, n + i) for i in range(sides)]
    faces += [(i + 1, n + i + 1, n + i) for i in range(sides)]
    for height, direction in ((0.0, -up), (1.0, up)):
        centre = sum(len(part) for part in vertices)
        vertices += [up[None] * height, ring + up * height]
        normals += [direction[None], np.tile(direction, (n, 1))]
        uv += [np.full((1, 2), 0.5), ring[:, [0, 2]] * 0.5 + 0.5]
        faces += [(centre, centre + 1 + i, centre + 2 + i) for i in range(sides)]
    return Mesh(
        np.concatenate(vertices), np.concatenate(normals), np.concatenate(uv), np.array(faces)
    )


def _sphere() -> Mesh:
    polar, azimuth = np.meshgrid(
        np.linspace(0, np.pi, SPHERE_RINGS + 1),
        np.linspace(0, 2 * np.pi, SPHERE_SECTORS + 1),
        indexing="ij",
    )
    points = np.stack(
        [np.sin(polar) * np.cos(azimuth), np.cos(polar), np.sin(polar) * np.sin(azimuth)], axis=-1
    ).reshape(-1, 3)
    uv = np.stack([azimuth / (2 * np.pi), polar / np.pi], axis=-1).reshape(-1, 2)
    n = SPHERE_SECTORS + 1
    faces: list[tuple[int, int, int]] = []
    for ring in range(SPHERE_RINGS):
        for sector in range(SPHERE_SECTORS):
            a = ring * n + sector
            if ring > 0:
                faces.append((a, a + 1, a + n))
            if ring < SPHERE_RINGS - 1:
                faces.append((a + 1, a + n + 1, a + n))
    return Mesh(points, points.copy(), uv, np.array(faces, dtype=np.int64))
