"""Rendered views of rooms: image, exact labels and caption, the same bytes for the same seed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kit.renderer.camera import Camera, propose
from kit.renderer.caption import caption_from_view, visible_objects
from kit.renderer.layout import Room, build_room
from kit.renderer.mitsuba_scene import (
    LoadedRoom,
    PrimaryHits,
    load_room,
    trace_light,
    trace_primary,
)
from schemas.errors import UserError
from sources.rooms_classes import CLASS_ID, CLASSES

if TYPE_CHECKING:
    from numpy.typing import NDArray

VIEW_STREAM = 2
CANDIDATES = 6
CANDIDATE_SIZE = 24
VIEWS_PER_SEED = 64
MID_GREY = 0.36
MAX_EXPOSURE = 4.0


@dataclass(frozen=True)
class RoomView:
    """One rendered view and its labels.

    Attributes:
        image: uint8 [H, W, 3], sRGB.
        depth: float32 [H, W], metres along the optical axis, 0 = invalid.
        normals: float32 [H, W, 3], unit, camera frame (x right, y up, z toward the camera).
        semseg: uint8 [H, W], ids into `CLASSES`, 0 = void.
        caption: template caption of what is visible.
        camera: where the view was taken.
        seed: seed of the room.
        view: index of the view in the room.
    """

    image: NDArray[np.uint8]
    depth: NDArray[np.float32]
    normals: NDArray[np.float32]
    semseg: NDArray[np.uint8]
    caption: str
    camera: Camera
    seed: int
    view: int


def render_room(seed: int, views: int, *, size: int = 64, samples: int = 16) -> list[RoomView]:
    """Render the first `views` views of the room of a seed.

    A view depends on (seed, view, size, samples) alone, never on how many are asked for.

    Args:
        views: number of views, up to 64.
        size: side of the square images in pixels.
        samples: light paths a pixel before denoising.

    Raises:
        UserError: If the packages of the extra `rooms` are not installed.
    """
    room = build_room(seed)
    loaded = load_room(room)
    return [_render_view(room, loaded, view, size, samples) for view in range(views)]


def _render_view(room: Room, loaded: LoadedRoom, view: int, size: int, samples: int) -> RoomView:
    rng = np.random.default_rng([room.seed, VIEW_STREAM, view])
    camera = choose_camera(rng, room, loaded)
    hits = trace_primary(loaded, camera, size)
    noise_seed = (room.seed * VIEWS_PER_SEED + view) % 2**31
    light = trace_light(loaded, camera, size, samples=samples, seed=noise_seed)
    image = tone_mapped(_denoised(light, hits))
    caption = caption_from_view(image, hits.semseg, hits.instances)
    return RoomView(
        image, hits.depth_m, hits.normals, hits.semseg, caption, camera, room.seed, view
    )


def choose_camera(rng: np.random.Generator, room: Room, loaded: LoadedRoom) -> Camera:
    """Return the best of a few proposed cameras: varied content and an unambiguous caption."""
    proposals = [propose(rng, room) for _ in range(CANDIDATES)]
    scores = [clarity(trace_primary(loaded, camera, CANDIDATE_SIZE)) for camera in proposals]
    return proposals[int(np.argmax(scores))]


def clarity(hits: PrimaryHits) -> float:
    """Score a view: class entropy in nats, less penalties for what makes a caption ambiguous.

    Near blockers, fewer than two nameable objects, missing wall or floor, a third object about
    as large as the second, centroids near a border between places or near each other.
    """
    shares = np.bincount(hits.semseg.ravel(), minlength=len(CLASSES)) / hits.semseg.size
    present = shares[shares > 0.004]
    score = float(-(present * np.log(present)).sum())
    score -= 2.0 * float((hits.depth_m < 0.7).mean() > 0.08)
    score -= 1.0 * float(shares[CLASS_ID["floor"]] < 0.06)
    score -= 1.0 * float(shares[CLASS_ID["wall"]] < 0.06)
    seen = visible_objects(hits.semseg, hits.instances)
    named = seen[:2]
    score -= 1.2 * (2 - len(named))
    score -= 0.4 * sum(item.share < 0.045 for item in named)
    score -= 0.5 * sum(
        abs(item.centroid_x - edge) < 0.05 for item in named for edge in (1 / 3, 2 / 3)
    )
    if len(named) == 2:
        score -= 0.5 * float(abs(named[0].centroid_x - named[1].centroid_x) < 0.1)
    if len(seen) > 2:
        score -= 0.6 * float(seen[2].share > 0.75 * named[1].share)
    return score


def tone_mapped(radiance: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Turn linear radiance [H, W, 3] into sRGB uint8, exposed for its log-mean brightness.

    Exposure brings the log-mean radiance to `MID_GREY`; the shoulder x (1 + x / 16) / (1 + 0.55 x)
    is a softened form of Reinhard et al. 2002, eq. 4.
    """
    radiance = np.maximum(radiance, 0).astype(np.float64)
    log_mean = np.exp(np.log(radiance.mean(axis=-1) + 1e-3).mean())
    exposed = radiance * min(MID_GREY / log_mean, MAX_EXPOSURE)
    mapped = exposed * (1 + exposed / 16) / (1 + 0.55 * exposed)
    return np.rint(np.clip(mapped, 0, 1) ** (1 / 2.2) * 255).astype(np.uint8)


def _denoised(light: NDArray[np.float32], hits: PrimaryHits) -> NDArray[np.float32]:
    # Open Image Denoise reads these once, on first use: one thread, so that the sums are the same.
    os.environ.setdefault("OIDN_NUM_THREADS", "1")
    os.environ.setdefault("OIDN_SET_AFFINITY", "0")
    try:
        import pyoidn
    except ImportError as error:
        raise UserError(
            "rendering rooms needs the package pyoidn, which is not installed; "
            "install the extra: pip install '.[rooms]'"
        ) from error
    clean = pyoidn.denoise(
        np.ascontiguousarray(light),
        albedo=np.ascontiguousarray(hits.albedo),
        normal=np.ascontiguousarray(hits.normals),
        hdr=True,
    )
    return np.asarray(clean, dtype=np.float32)
