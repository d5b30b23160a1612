"""The only module that talks to Mitsuba 3: loads a room and traces rays through it.

The variant is `scalar_rgb`, which needs no compiler back end; every process uses one thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from kit.renderer import shapes
from schemas.errors import UserError
from sources.rooms_classes import CLASS_ID, VOID_ID

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kit.renderer.camera import Camera
    from kit.renderer.furniture import SceneObject
    from kit.renderer.layout import Room
    from kit.renderer.materials import Material

MAX_PATH_DEPTH = 5
NEAR_CLIP_M = 0.02
NO_OBJECT = 65535


@dataclass(frozen=True)
class LoadedRoom:
    """A room inside Mitsuba, with the class and the object of each Mitsuba shape.

    Attributes:
        scene: the `mitsuba.Scene`.
        shape_class: uint8 [shapes + 1], class id by shape index; the last entry means a miss.
        shape_object: uint16 [shapes + 1], object index by shape index; the last means a miss.
    """

    scene: Any
    shape_class: NDArray[np.uint8]
    shape_object: NDArray[np.uint16]


@dataclass(frozen=True)
class PrimaryHits:
    """What the rays through the pixel centres hit first.

    Attributes:
        depth_m: float32 [H, W], distance along the optical axis in metres, 0 = miss.
        normals: float32 [H, W, 3], unit, camera frame (x right, y up, z toward the camera).
        semseg: uint8 [H, W], class ids.
        instances: uint16 [H, W], object indices, `NO_OBJECT` = miss.
        albedo: float32 [H, W, 3], linear reflectance, a guide for the denoiser.
    """

    depth_m: NDArray[np.float32]
    normals: NDArray[np.float32]
    semseg: NDArray[np.uint8]
    instances: NDArray[np.uint16]
    albedo: NDArray[np.float32]


def load_room(room: Room) -> LoadedRoom:
    """Hand a room to Mitsuba: one mesh for each material of each object.

    Raises:
        UserError: If Mitsuba is not installed.
    """
    mi = _mitsuba()
    description: dict[str, Any] = {
        "type": "scene",
        "integrator": {"type": "path", "max_depth": MAX_PATH_DEPTH},
    }
    owners: dict[str, int] = {}
    for index, item in enumerate(room.objects):
        for mesh, material in _surfaces(item):
            name = f"shape{len(owners):04d}"
            owners[name] = index
            description[name] = _mesh(mi, name, mesh, material)
    scene = mi.load_dict(description, optimize=False)
    order = [owners[shape.id()] for shape in scene.shapes()]
    classes = [CLASS_ID[room.objects[index].class_name] for index in order]
    return LoadedRoom(
        scene,
        np.array([*classes, VOID_ID], dtype=np.uint8),
        np.array([*order, NO_OBJECT], dtype=np.uint16),
    )


def trace_primary(loaded: LoadedRoom, camera: Camera, size: int) -> PrimaryHits:
    """Trace one ray through the centre of each of `size` x `size` pixels.

    Nothing is averaged across edges: every label belongs to exactly one surface.
    """
    mi = _mitsuba()
    # Without jitter a stratified sampler of one sample aims at the pixel centre.
    sampler = {"type": "stratified", "sample_count": 1, "jitter": False}
    channels = np.array(
        mi.render(
            loaded.scene,
            sensor=_sensor(mi, camera, size, sampler),
            integrator=_label_integrator(),
            spp=1,
            seed=0,
        )
    )
    axes = camera.axes()
    # In scalar variants the shape index counts from 1 and 0 is a miss, which lands on index -1.
    shape = np.rint(channels[..., 6]).astype(np.int64) - 1
    hit = shape >= 0
    point = (channels[..., 0:3] - camera.eye) @ axes.T
    normals = channels[..., 3:6] @ axes.T
    facing = np.where((normals * point).sum(-1, keepdims=True) > 0, -1.0, 1.0)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    normals = normals * facing / np.maximum(length, 1e-9)
    return PrimaryHits(
        depth_m=np.where(hit, -point[..., 2], 0).astype(np.float32),
        normals=np.where(hit[..., None], normals, 0).astype(np.float32),
        semseg=loaded.shape_class[shape],
        instances=loaded.shape_object[shape],
        albedo=np.clip(channels[..., 7:10], 0, 1).astype(np.float32),
    )


def trace_light(
    loaded: LoadedRoom, camera: Camera, size: int, *, samples: int, seed: int
) -> NDArray[np.float32]:
    """Path-trace linear radiance [size, size, 3] with `samples` paths a pixel."""
    mi = _mitsuba()
    sampler = {"type": "independent", "sample_count": samples}
    image = mi.render(
        loaded.scene, sensor=_sensor(mi, camera, size, sampler), spp=samples, seed=seed
    )
    return np.array(image, dtype=np.float32)


def _surfaces(item: SceneObject) -> list[tuple[shapes.Mesh, Material]]:
    """Merge the parts of an object that share a material, in the order of first use."""
    groups: dict[int, tuple[Material, list[shapes.Mesh]]] = {}
    for part in item.parts:
        mesh = shapes.transformed(shapes.unit_mesh(part.kind), part.matrix)
        groups.setdefault(id(part.material), (part.material, []))[1].append(mesh)
    return [(shapes.merged(meshes), material) for material, meshes in groups.values()]


@lru_cache(maxsize=1)
def _mitsuba() -> Any:
    try:
        import drjit
        import mitsuba
    except ImportError as error:
        raise UserError(
            "rendering rooms needs the package mitsuba, which is not installed; "
            "install the extra: pip install '.[rooms]'"
        ) from error
    mitsuba.set_variant("scalar_rgb")
    drjit.set_thread_count(1)
    return mitsuba


@lru_cache(maxsize=1)
def _label_integrator() -> Any:
    aovs = "point:position,normal:sh_normal,index:shape_index,albedo:albedo"
    return _mitsuba().load_dict({"type": "aov", "aovs": aovs})


def _sensor(mi: Any, camera: Camera, size: int, sampler: dict[str, Any]) -> Any:
    return mi.load_dict(
        {
            "type": "perspective",
            "fov": camera.fov_deg,
            "fov_axis": "x",
            "near_clip": NEAR_CLIP_M,
            "to_world": mi.ScalarTransform4f().look_at(
                origin=camera.eye.tolist(), target=camera.target.tolist(), up=[0, 1, 0]
            ),
            "film": {
                "type": "hdrfilm",
                "width": size,
                "height": size,
                "rfilter": {"type": "box"},
                "pixel_format": "rgb",
            },
            "sampler": sampler,
        }
    )


def _mesh(mi: Any, name: str, mesh: shapes.Mesh, material: Material) -> Any:
    properties = mi.Properties()
    properties["surface"] = mi.load_dict(_bsdf(mi, material))
    if material.radiance is not None:
        radiance = {"type": "rgb", "value": material.radiance.tolist()}
        properties["emitter"] = mi.load_dict({"type": "area", "radiance": radiance})
    shape = mi.Mesh(
        name,
        len(mesh.vertices),
        len(mesh.faces),
        has_vertex_normals=True,
        has_vertex_texcoords=True,
        props=properties,
    )
    shape.set_id(name)
    buffers = mi.traverse(shape)
    buffers["vertex_positions"] = mesh.vertices.ravel().astype(np.float32)
    buffers["vertex_normals"] = mesh.normals.ravel().astype(np.float32)
    buffers["vertex_texcoords"] = mesh.uv.ravel().astype(np.float32)
    buffers["faces"] = mesh.faces.ravel().astype(np.uint32)
    buffers.update()
    return shape


def _bsdf(mi: Any, material: Material) -> dict[str, Any]:
    if material.reflectance.ndim == 1:
        reflectance = {"type": "rgb", "value": material.reflectance.tolist()}
        return {"type": "diffuse", "reflectance": reflectance}
    texture = {
        "type": "bitmap",
        "bitmap": mi.Bitmap(np.ascontiguousarray(material.reflectance, dtype=np.float32)),
        "raw": True,
        "wrap_mode": "repeat",
        "to_uv": mi.ScalarTransform4f().scale([material.repeats] * 3),
    }
    return {"type": "diffuse", "reflectance": texture}
