"""Convert a data set to shards, one shard at a time; a finished shard is not made again.

In the folder: ``recipe.json`` (what was asked for), ``<split>-NNNNNN.tar``, ``parts/*.parquet``
(the rows of one shard; written after its tar, so it says that the shard is finished),
``manifest.parquet`` (all rows) and ``prepared.json`` (what was made), the last to be written.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.digest import sha256_of
from schemas.errors import SampleError, SourceError
from schemas.sample import IMAGE_MEMBER, Sample
from sources.report.tally import SplitTally, tally_from_json, tally_sample
from sources.resize import Fit, fit_sample
from storage.samples.codecs import encode_sample
from storage.samples.shards import pack_tar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sources.layouts.protocol import LabelledFiles
    from sources.protocol import Split
    from storage.files.stores import RunStore

RECIPE_FILE = "recipe.json"
COLUMNS = pa.schema(
    [
        ("split", pa.string()),
        ("shard", pa.string()),
        ("key", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("file", pa.string()),
        ("group", pa.string()),
        ("caption", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("tasks", pa.list_(pa.string())),
        ("image_sha256", pa.string()),
        ("tar_sha256", pa.string()),
    ]
)
"""A row per sample. ``status``: ok or failed; a failed one has a reason but no shard. ``file``: the
image within the data set. ``group``: samples of one scene, where the data set names it."""

_TALLY = b"tally"

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPlan:
    """One shard to be made.

    Attributes:
        split: Its split.
        number: Its number within the split.
        keys: Its samples.
    """

    split: Split
    number: int
    keys: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name without suffix."""
        return f"{self.split}-{self.number:06d}"


def plan_shards(
    splits: Mapping[Split, Sequence[str]], *, limit: int | None, per_shard: int
) -> tuple[ShardPlan, ...]:
    """Divide keys into shards.

    Args:
        limit: Only the first so many of each split; None: all.
    """
    return tuple(
        ShardPlan(
            split=split,
            number=start // per_shard,
            keys=tuple(keys[start : min(start + per_shard, limit or len(keys))]),
        )
        for split, keys in splits.items()
        for start in range(0, min(len(keys), limit or len(keys)), per_shard)
    )


def claim_folder(store: RunStore, recipe: Mapping[str, Any], plans: Iterable[ShardPlan]) -> None:
    """Write down what a folder is for, or check that it is for the same.

    Raises:
        SourceError: If it holds another preparation.
    """
    keys = sha256_of(repr([(plan.name, plan.keys) for plan in plans]).encode())
    wanted = {**recipe, "keys_sha256": keys}
    if store.exists(RECIPE_FILE):
        found = json.loads(store.read_bytes(RECIPE_FILE))
        differing = [name for name in wanted if found.get(name) != wanted[name]]
        if differing:
            raise SourceError(
                f"{store.uri(RECIPE_FILE)}: this folder holds another preparation: "
                + "; ".join(f"{n} was {found.get(n)}, now {wanted[n]}" for n in differing)
                + "; choose another --out, or delete the folder"
            )
        return
    store.write_bytes(RECIPE_FILE, json.dumps(wanted, indent=1, sort_keys=True).encode())


def is_finished(store: RunStore, plan: ShardPlan) -> bool:
    """Whether a shard was made and none of its samples failed."""
    if not store.exists(_part(plan)):
        return False
    data = store.read_bytes(_part(plan))
    return bool(data) and "failed" not in pq.read_table(io.BytesIO(data))["status"].to_pylist()


def convert_shard(
    files: LabelledFiles,
    plan: ShardPlan,
    store: RunStore,
    *,
    size: tuple[int, int] | None,
    fit: Fit,
) -> SplitTally:
    """Make one shard and write it, its rows last.

    Args:
        size: Height and width of images and labels; None: as stored.
        fit: See :func:`sources.resize.fit_sample`.

    Returns:
        What was counted.
    """
    tally, rows, packed = SplitTally(), list[Row](), list[tuple[str, dict[str, bytes]]]()
    for key in plan.keys:
        try:
            sample = files.read(key)
            fitted = fit_sample(sample, size, fit)
        except SampleError as error:
            tally.failed[error.reason] += 1
            rows.append(_failed_row(plan, key, error))
            continue
        members = encode_sample(fitted)
        tally.add(tally_sample(fitted, stored_size=sample.image.shape[:2]))
        packed.append((key, members))
        rows.append(_row(plan, fitted, members))
    if store.exists(_part(plan)):
        # A row must never name a tar that is being replaced.
        store.write_bytes(_part(plan), b"")
    _write(store, plan, rows, packed, tally)
    return tally


def read_part(store: RunStore, plan: ShardPlan) -> tuple[pa.Table, SplitTally]:
    """Rows of a finished shard and what was counted."""
    table = pq.read_table(io.BytesIO(store.read_bytes(_part(plan))))
    return table.replace_schema_metadata(None), tally_from_json(table.schema.metadata[_TALLY])


def write_table(store: RunStore, path: str, table: pa.Table) -> str:
    """Write a table whole.

    Returns:
        Digest of its bytes.
    """
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    store.write_bytes(path, buffer.getvalue())
    return sha256_of(buffer.getvalue())


def _part(plan: ShardPlan) -> str:
    return f"parts/{plan.name}.parquet"


def _write(
    store: RunStore,
    plan: ShardPlan,
    rows: list[Row],
    packed: list[tuple[str, dict[str, bytes]]],
    tally: SplitTally,
) -> None:
    if packed:
        tar = pack_tar(packed)
        store.write_bytes(f"{plan.name}.tar", tar.data)
        for row in rows:
            row["tar_sha256"] = tar.sha256 if row["status"] == "ok" else None
    table = pa.Table.from_pylist(rows, schema=COLUMNS)
    write_table(
        store, _part(plan), table.replace_schema_metadata({_TALLY: tally.to_json().encode()})
    )


def _row(plan: ShardPlan, sample: Sample, members: Mapping[str, bytes]) -> Row:
    height, width = sample.image.shape[:2]
    return {
        "split": plan.split,
        "shard": f"{plan.name}.tar",
        "key": sample.key,
        "status": "ok",
        "file": sample.meta.get("file"),
        "group": sample.meta.get("group"),
        "caption": sample.caption,
        "height": height,
        "width": width,
        "tasks": list(sample.labels),
        "image_sha256": sha256_of(members[IMAGE_MEMBER]),
    }


def _failed_row(plan: ShardPlan, key: str, error: SampleError) -> Row:
    return {
        "split": plan.split,
        "key": key,
        "status": "failed",
        "reason": error.reason,
        "detail": error.detail,
    }
