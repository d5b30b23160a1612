"""Small units of synthetic samples, committed the way a generator commits them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from schemas.manifest import ManifestRow
from schemas.run_layout import shard_path
from schemas.sample import Sample
from schemas.unit import Unit, synthetic_key
from schemas.weights import Series, WeightsManifest
from storage.files.stores import RunStore
from storage.manifests.table import commit_unit
from storage.manifests.unit_outcome import UnitCommit, UnitOutcome
from storage.records.weights import publish_weights
from storage.samples.codecs import encode_sample
from storage.samples.shards import pack_tar

SIZE_PX = 8


def image_unit(name: str, *, num_keys: int = 4) -> Unit:
    """A unit of round 0 that makes images from keys named after it."""
    return Unit(
        round=0,
        kind="synthesize",
        source_shard=f"train-{name}",
        keys=tuple(f"{name}{i}" for i in range(num_keys)),
        variants=1,
        seed=0,
        recipe_hash="recipe",
    )


def relabel_unit(parent: Unit, *, round_index: int) -> Unit:
    """The unit of a later round that labels the images of ``parent`` again."""
    return Unit(
        round=round_index,
        kind="relabel",
        source_shard=parent.source_shard,
        keys=parent.keys,
        variants=parent.variants,
        seed=parent.seed,
        recipe_hash=parent.recipe_hash,
        parent_unit_id=parent.unit_id,
    )


def commit(
    store: RunStore,
    unit: Unit,
    *,
    version: int,
    filtered: tuple[str, ...] = (),
    created_at: str = "2026-01-01T00:00:00+00:00",
    creator: WeightsManifest | None = None,
) -> UnitCommit:
    """Commit a unit whose samples tell the version by their depth: version + 1 metres.

    Args:
        creator: The creator's weights that the rows name.
    """
    samples = {
        key: None if key in filtered else _sample(synthetic_key(unit, key, 0), version)
        for key in unit.keys
    }
    return commit_samples(
        store, unit, samples, version=version, created_at=created_at, creator=creator
    )


def commit_samples(
    store: RunStore,
    unit: Unit,
    samples: Mapping[str, Sample | None],
    *,
    version: int,
    attempt: str = "a1",
    created_at: str = "",
    creator: WeightsManifest | None = None,
) -> UnitCommit:
    """Commit a unit's samples by source key, those that are None as filtered."""
    good = {key: sample for key, sample in samples.items() if sample is not None}
    packed = pack_tar((sample.key, encode_sample(sample)) for sample in good.values())
    path = shard_path(
        round_index=unit.round, version=version, unit_id=unit.unit_id, attempt=attempt
    )
    store.write_bytes(path, packed.data)
    rows = []
    for source_key in unit.keys:
        key = synthetic_key(unit, source_key, 0)
        row = replace(
            planned_row(unit, source_key),
            parent_unit_id=unit.parent_unit_id,
            attempt=attempt,
            key=key,
            creation_version=version,
            created_at=created_at,
            creator_version=creator.version if creator else -1,
            creator_hash=creator.sha256 if creator else "",
        )
        if source_key in good:
            offset, size = packed.offsets[key]
            sha256 = packed.sha256
            row = replace(row, tar_uri=path, tar_offset=offset, tar_size=size, tar_sha256=sha256)
        else:
            row = replace(row, status="filtered", error_class="flat_image")
        rows.append(row)
    made = UnitCommit(unit=unit, rows=rows, summary={"attempt": attempt})
    assert commit_unit(store, made)
    return made


def planned_row(unit: Unit, key: str) -> ManifestRow:
    """Row of a sample before anything was done for it."""
    return ManifestRow(
        run_id="run",
        round=unit.round,
        unit_id=unit.unit_id,
        unit_kind=unit.kind,
        attempt="a1",
        key=key,
        status="ok",
        source_shard=unit.source_shard,
        source_key=key,
        creation_version=-1,
    )


def outcome(num_samples: int, failed: Mapping[str, int]) -> UnitOutcome:
    """What became of a unit, as far as its failures go; the other samples are good."""
    num_failed = sum(failed.values())
    counts = {"ok": num_samples - num_failed, "filtered": 0, "failed": num_failed}
    return UnitOutcome(
        unit_id="u", image_unit_id="u", kind="synthesize", round=0, counts=counts, failed=failed
    )


def publish(
    store: RunStore,
    version: int,
    data: bytes | None = None,
    *,
    seen_images: int | None = None,
    series: Series = "creation",
) -> WeightsManifest:
    """Commit a version of weights; other bytes for each where none are given."""
    return publish_weights(
        store,
        b"weights" + bytes([version]) if data is None else data,
        series=series,
        version=version,
        step=version * 10,
        seen_images=version * 100 if seen_images is None else seen_images,
        ema_decay=0.9,
        base_model_hash="base",
        keys_hash="keys",
        stage="self_improve" if version else "warm_up",
        parent=version - 1,
    )


def _sample(key: str, version: int) -> Sample:
    noise = np.random.default_rng(abs(hash(key)) % 2**32)
    normals = np.zeros((SIZE_PX, SIZE_PX, 3), np.float32)
    normals[..., 2] = 1.0
    return Sample(
        key=key,
        image=noise.integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8),
        labels={
            "normals": normals,
            "depth": np.full((SIZE_PX, SIZE_PX), version + 1.0, np.float32),
        },
        caption="a small room",
        is_synthetic=True,
        meta={"source_key": key},
    )
