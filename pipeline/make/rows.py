"""Manifest rows of a unit, and the drafts that carry them from stage to stage."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from schemas.manifest import ManifestRow
from schemas.unit import synthetic_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.make.isolate import Failure
    from schemas.config import CreatorSection, RunConfig
    from schemas.sample import Task
    from schemas.unit import Unit

PURE_NOISE_START = 1000
"""``t_start`` of the Gaussian creator, whatever the configuration says."""

_PROVENANCE = (
    "run_id",
    "unit_id",
    "round",
    "source_uri",
    "source_shard",
    "source_key",
    "source_sha256",
    "variant",
    "caption_model",
    "creator",
    "seed",
    "t_start",
    "steps",
    "guidance",
    "scheduler",
    "diffusion_base_hash",
    "creation_version",
    "creation_step",
    "code_version",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A synthetic sample on its way through a unit.

    Attributes:
        row: Its manifest row so far; ``status`` other than ``ok`` means that it is out.
        image: uint8 RGB [H, W, 3].
        image_png: Bytes of the image as stored before, if it is labelled again.
        labels: Task to label array, encoded as in :class:`schemas.sample.Sample`.
        confidence: Task to float32 [H, W].
        is_taken_over: Whether an earlier attempt at the unit made the image.
    """

    row: ManifestRow
    image: NDArray[np.uint8]
    image_png: bytes | None = None
    labels: dict[Task, NDArray[Any]] = field(default_factory=dict)
    confidence: dict[Task, NDArray[np.float32]] = field(default_factory=dict)
    is_taken_over: bool = False


def planned_row(
    config: RunConfig, unit: Unit, source_key: str, variant: int, *, attempt: str
) -> ManifestRow:
    """Row of a sample before anything was done for it."""
    creator = config.creator
    return ManifestRow(
        run_id=config.run_id,
        round=unit.round,
        unit_id=unit.unit_id,
        unit_kind=unit.kind,
        parent_unit_id=unit.parent_unit_id,
        attempt=attempt,
        key=synthetic_key(unit, source_key, variant),
        status="ok",
        source_shard=unit.source_shard,
        source_key=source_key,
        variant=variant,
        creator=creator.kind,
        t_start=start_of(creator),
        steps=creator.num_steps if start_of(creator) else 0,
        guidance=creator.guidance_scale,
        scheduler=creator.sampler,
        creation_version=-1,
        code_version=code_version(),
    )


def planned_rows(config: RunConfig, unit: Unit, *, attempt: str) -> list[ManifestRow]:
    """Rows of all samples of a unit, keys outermost."""
    return [
        planned_row(config, unit, key, variant, attempt=attempt)
        for key in unit.keys
        for variant in range(unit.variants)
    ]


def start_of(creator: CreatorSection) -> int:
    """Timestep that a creator starts from; 0 for images that are taken as they are."""
    starts = {"halfway": creator.t_start, "gaussian": PURE_NOISE_START, "unlabelled": 0}
    return starts[creator.kind]


def failed_row(row: ManifestRow, failure: Failure) -> ManifestRow:
    """The same sample, which could not be made."""
    return replace(row, status="failed", error_class=failure.reason, error_msg=failure.detail)


def filtered_row(row: ManifestRow, reason: str) -> ManifestRow:
    """The same sample, dropped by screening."""
    return replace(row, status="filtered", error_class=reason)


def provenance(row: ManifestRow) -> dict[str, Any]:
    """What the json member of a sample tells about its making."""
    return {name: getattr(row, name) for name in _PROVENANCE}


def numbers_json(values: Mapping[str, float]) -> str:
    """Numbers as a JSON object, five digits each; null for what is not finite."""
    return json.dumps(
        {k: float(f"{v:.5g}") if math.isfinite(v) else None for k, v in values.items()}
    )


def pixels_sha256(image: NDArray[np.uint8]) -> str:
    """SHA-256 of an image's shape and decoded pixels: the same for every lossless encoding."""
    digest = hashlib.sha256(json.dumps(image.shape).encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


@cache
def code_version() -> str:
    """Version of the installed project; ``unknown`` when it runs from a plain checkout."""
    try:
        return metadata.version("selfimproving-perception")
    except metadata.PackageNotFoundError:
        return "unknown"
