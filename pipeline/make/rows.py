"""Manifest rows of a unit, and the drafts that carry them from stage to stage."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.manifest import ManifestRow
from schemas.sample import TASKS
from schemas.unit import synthetic_key

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from pipeline.make.isolate import Failure
    from schemas.config import RunConfig
    from schemas.sample import Sample, Task
    from schemas.unit import Unit
    from schemas.weights import WeightsManifest

TRUE_LABELS = "true_labels"
"""In ``extra`` and in the json member: tasks whose labels are the real image's."""

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
_PROVENANCE_IF_SET = ("creator_version", "label_origin")
"""Told only where they are not the default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageOrder:
    """One synthetic image to make.

    Attributes:
        source_shard: Shard of the real image.
        source: The real sample.
        caption: Text condition.
        seed: Seed of everything random in the image, in [0, 2**63).
    """

    source_shard: str
    source: Sample
    caption: str
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A synthetic sample on its way through a unit.

    Attributes:
        row: Its manifest row so far.
        order: What the image is to be made from; None before that is read, and after.
        image: uint8 RGB [H, W, 3]; without pixels before it is made.
        image_png: Bytes of the image as stored before, if it is labelled again.
        labels: Task to label array, encoded as in :class:`schemas.sample.Sample`.
        reliability: Task to float32 [H, W].
        agreement: Task to the share of pixels where prediction and creator's map agree.
        members: Its files in the tar, by name; before it is encoded, those that are kept as stored,
            and the maps of its creator.
        is_taken_over: Whether an earlier attempt at the unit made the image.
    """

    row: ManifestRow
    order: ImageOrder | None = None
    image: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 0, 3), np.uint8))
    image_png: bytes | None = None
    labels: Mapping[Task, NDArray[Any]] = field(default_factory=dict)
    reliability: Mapping[Task, NDArray[np.float32]] = field(default_factory=dict)
    agreement: Mapping[Task, float] = field(default_factory=dict)
    members: Mapping[str, bytes] = field(default_factory=dict)
    is_taken_over: bool = False

    @property
    def is_in(self) -> bool:
        """Whether it has neither failed nor been screened out."""
        return self.row.status == "ok"

    def out(self, row: ManifestRow) -> Draft:
        """The same sample, of which only a row is left, that says why."""
        return Draft(row=row, is_taken_over=self.is_taken_over)

    def with_image(self, image: NDArray[np.uint8], *, is_taken_over: bool = False) -> Draft:
        """The same sample with its image."""
        height, width = image.shape[:2]
        row = replace(self.row, height=height, width=width)
        return replace(self, row=row, order=None, image=image, is_taken_over=is_taken_over)


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
        t_start=creator.start,
        steps=creator.num_steps if creator.start else 0,
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


def made_with(row: ManifestRow, weights: WeightsManifest | None) -> ManifestRow:
    """Note which weights of a creator make the image; None if it does not learn."""
    if weights is None:
        return row
    return replace(row, creator_version=weights.version, creator_hash=weights.sha256)


def failed_row(row: ManifestRow, failure: Failure) -> ManifestRow:
    """The same sample, which could not be made."""
    return replace(row, status="failed", error_class=failure.reason, error_msg=failure.detail)


def filtered_row(row: ManifestRow, reason: str) -> ManifestRow:
    """The same sample, dropped by screening."""
    return replace(row, status="filtered", error_class=reason)


def provenance(row: ManifestRow) -> dict[str, Any]:
    """What the json member of a sample tells about its making."""
    defaults = {each.name: each.default for each in fields(row)}
    names = [n for n in _PROVENANCE_IF_SET if getattr(row, n) != defaults[n]]
    found = {name: getattr(row, name) for name in (*_PROVENANCE, *names)}
    return found | json.loads(row.extra)


def with_true_labels(row: ManifestRow, tasks: Collection[Task]) -> ManifestRow:
    """Note which labels of a sample are not predicted; the same row if all are."""
    if not tasks:
        return row
    extra = json.dumps({TRUE_LABELS: [task for task in TASKS if task in tasks]})
    return replace(row, label_kind="mixed", extra=extra)


def true_labels_of(row: ManifestRow) -> tuple[Task, ...]:
    """Tasks whose labels :func:`with_true_labels` has noted."""
    return tuple(json.loads(row.extra).get(TRUE_LABELS, ()))


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
