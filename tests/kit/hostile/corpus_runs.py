"""Hostile contents of a run directory: weights and unit manifests, with the outcome of each."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save
from torch import nn

from perception.state_file import load_state_bytes
from schemas.errors import DamagedShardError, WeightsMismatchError
from schemas.manifest import ManifestRow
from schemas.run_layout import unit_manifest_path, weights_dir
from schemas.unit import Unit
from storage.files.stores import open_store
from storage.manifests.table import ManifestReader, commit_unit, read_unit
from storage.manifests.unit_outcome import UnitCommit
from storage.records.captions import read_captions
from storage.records.weights import publish_weights, read_weights
from tests.kit.hostile.outcomes import PICKLE, Accepted, Item, Refused

UNIT = Unit(
    round=0,
    kind="synthesize",
    source_shard="train-000000",
    keys=("a", "b"),
    variants=1,
    seed=0,
    recipe_hash="r",
)
FACTS: dict[str, Any] = {
    "version": 0,
    "step": 1,
    "seen_images": 1,
    "ema_decay": 0.9,
    "base_model_hash": "b",
    "keys_hash": "k",
    "stage": "warm_up",
    "parent": -1,
}


def state(**changes: Any) -> dict[str, torch.Tensor]:
    tensors = {"weight": torch.ones(2, 3), "bias": torch.zeros(2), **changes}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def take(folder: Path, data: bytes, edit: Callable[[Path], object] = lambda _: None) -> nn.Linear:
    """Publish bytes as weights, change the files, and load them as a generator does."""
    store = open_store(str(folder))
    publish_weights(store, data, **FACTS)
    edit(folder / weights_dir(0))
    module = nn.Linear(3, 2)
    before = module.weight.detach().clone()
    try:
        load_state_bytes(module, read_weights(store, 0)[1])
    except (DamagedShardError, WeightsMismatchError):
        assert torch.equal(module.weight, before), "a refused state was copied in part"
        raise
    return module


def weights(name: str, data: bytes, message: str) -> Item:
    outcome = Refused(WeightsMismatchError, message)
    return Item(f"weights: {name}", lambda folder: take(folder, data), outcome)


def published(name: str, edit: Callable[[Path], object], message: str) -> Item:
    def read(folder: Path) -> Any:
        return take(folder, save(state()), edit)

    return Item(f"weights: {name}", read, Refused(DamagedShardError, message))


def with_header(text: bytes, *, length: int | None = None, body: bytes = b"") -> bytes:
    """A safetensors file whose header is as given."""
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor_entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


def header_of(**tensors: dict[str, Any]) -> bytes:
    return with_header(json.dumps(tensors).encode(), body=bytes(32))


def _edit_manifest(**changes: Any) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def _put(content: bytes, name: str = "manifest.json") -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


NO_FORMAT = "wanted a safetensors file"
WEIGHTS = [
    Item(
        "weights: plain",
        lambda folder: take(folder, save(state())),
        Accepted(lambda module: module.weight.eq(1).all()),
    ),
    weights("empty", b"", NO_FORMAT),
    weights("a pickle", PICKLE, NO_FORMAT),
    weights("a pickle with a header's length", struct.pack("<Q", len(PICKLE)) + PICKLE, NO_FORMAT),
    weights("header of exabytes", with_header(b"{}", length=2**63), NO_FORMAT),
    weights("header of 90 MB that is not there", with_header(b"{}", length=90 << 20), NO_FORMAT),
    weights("header that is no JSON", with_header(b"{'a'"), NO_FORMAT),
    weights("header of brackets", with_header(b"[" * 100_000), NO_FORMAT),
    weights("cut", save(state())[:-4], NO_FORMAT),
    weights("longer than it says", save(state()) + b"\0" * 8, NO_FORMAT),
    weights(
        "offsets beyond the end", header_of(bias=tensor_entry(data_offsets=[0, 2**40])), NO_FORMAT
    ),
    weights(
        "offsets that overlap", header_of(bias=tensor_entry(), weight=tensor_entry()), NO_FORMAT
    ),
    weights("a shape of exabytes", header_of(bias=tensor_entry(shape=[2**40, 2**40])), NO_FORMAT),
    weights("a negative shape", header_of(bias=tensor_entry(shape=[-2])), NO_FORMAT),
    weights("an unknown type", header_of(bias=tensor_entry(dtype="OBJECT")), NO_FORMAT),
    weights(
        "a type torch has not",
        with_header(
            json.dumps({"bias": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}).encode(),
            body=bytes(2),
        ),
        NO_FORMAT,
    ),
    weights("a tensor missing", save(state(bias=None)), r"1 missing \(bias\)"),
    weights("a tensor too many", save(state(extra=torch.zeros(1))), r"1 unexpected \(extra\)"),
    weights("transposed", save(state(weight=torch.ones(3, 2))), r"wanted float32 \[2, 3\]"),
    weights("half precision", save(state(bias=torch.zeros(2).half())), "found float16"),
    weights("not a number", save(state(bias=torch.tensor([0.0, torch.nan]))), "not finite.*bias"),
    weights("infinite", save(state(weight=torch.full((2, 3), torch.inf))), "not finite.*weight"),
    published(
        "a byte changed", lambda folder: _flip(folder / "model.safetensors"), "no file with sha256"
    ),
    published(
        "the file gone",
        lambda folder: (folder / "model.safetensors").unlink(),
        "no file with sha256",
    ),
    published("another's digest", _edit_manifest(sha256="0" * 64), "no file with sha256"),
    published(
        "a digest that leads away", _edit_manifest(sha256="../../../x"), "not a weights manifest"
    ),
    published("a digest that is a number", _edit_manifest(sha256=5), "not a weights manifest"),
    published("another version", _edit_manifest(version=7), "not a weights manifest"),
    published("a version that is a text", _edit_manifest(version="0"), "not a weights manifest"),
    published("an unknown field", _edit_manifest(loader="os.system"), "not a weights manifest"),
    published("manifest empty", _put(b""), "not a weights manifest"),
    published("manifest not UTF-8", _put(b"\xff{}"), "not a weights manifest"),
    published("manifest a list", _put(b"[]"), "not a weights manifest"),
    published("manifest of brackets", _put(b"[" * 100_000), "not a weights manifest"),
    published("manifest a pickle", _put(PICKLE), "not a weights manifest"),
]


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def unit_row(key_: str, **changes: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "run_id": "run",
        "round": 0,
        "unit_id": UNIT.unit_id,
        "unit_kind": "synthesize",
        "attempt": "a1",
        "key": key_,
        "status": "ok",
        "source_shard": "train-000000",
        "source_key": key_,
        "creation_version": 0,
    }
    return {**asdict(ManifestRow(**facts)), **changes}


def unit_manifest(rows: list[dict[str, Any]], **metadata: bytes) -> bytes:
    """A unit's manifest as another writer might have written it."""
    held = {
        "schema_version": b"1",
        "unit": UNIT.to_json().encode(),
        "summary": b'{"attempt": "a1"}',
        **metadata,
    }
    table = pa.Table.from_pylist(rows).replace_schema_metadata(
        {name.encode(): value for name, value in held.items()}
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def unit(name: str, data: bytes, outcome: Any) -> Item:
    def read(folder: Path) -> UnitCommit:
        path = folder / unit_manifest_path(round_index=0, unit_id=UNIT.unit_id)
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        store = open_store(str(folder))
        reader = ManifestReader(store)
        found = reader.refresh()
        commit = read_unit(store, 0, UNIT.unit_id)
        assert [one.unit for one in found] == [commit.unit]
        return commit

    return Item(f"unit manifest: {name}", read, outcome)


def without(column: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in unit_row("a").items() if name != column}]


ROWS = [unit_row("a"), unit_row("b")]
NOT_WHOLE = Refused(DamagedShardError, "not a whole Parquet file")
NOT_OURS = Refused(DamagedShardError, "wanted the columns and metadata")

UNITS = [
    unit("plain", unit_manifest(ROWS), Accepted(lambda commit: len(commit.rows) == 2)),
    unit(
        "of a newer version with more columns",
        unit_manifest(
            [{**row, "novel": 1, "schema_version": 99} for row in ROWS], schema_version=b"99"
        ),
        Accepted(lambda commit: len(commit.rows) == 2),
    ),
    unit("no rows", unit_manifest(ROWS)[:0], NOT_WHOLE),
    unit("torn at the end", unit_manifest(ROWS)[:-20], NOT_WHOLE),
    unit("torn at the start", unit_manifest(ROWS)[500:], NOT_WHOLE),
    unit("a footer of gigabytes", unit_manifest(ROWS)[:-8] + b"\xff\xff\xff\x7fPAR1", NOT_WHOLE),
    unit("a pickle", PICKLE, NOT_WHOLE),
    unit("without a column", unit_manifest(without("key")), NOT_OURS),
    unit(
        "without an optional column",
        unit_manifest(without("device")),
        Accepted(lambda commit: commit.rows[0].device == ""),
    ),
    unit("numbers for texts", unit_manifest([unit_row("a", status=1)]), NOT_OURS),
    unit("texts for numbers", unit_manifest([unit_row("a", creation_version="new")]), NOT_OURS),
    unit("lists for numbers", unit_manifest([unit_row("a", seed=[1])]), NOT_OURS),
    unit("nothing for a key", unit_manifest([unit_row("a"), unit_row("b", key=None)]), NOT_OURS),
    unit(
        "a column of another name",
        unit_manifest(ROWS).replace(b"caption_model", b"caption\0model"),
        Accepted(lambda commit: commit.rows[0].caption_model == ""),
    ),
    unit("a key twice", unit_manifest([unit_row("a"), unit_row("a")]), NOT_OURS),
    unit("rows of another unit", unit_manifest([unit_row("a", unit_id="0" * 16)]), NOT_OURS),
    unit("no unit", unit_manifest(ROWS, unit=b""), NOT_OURS),
    unit("a unit that is a list", unit_manifest(ROWS, unit=b"[]"), NOT_OURS),
    unit("a unit of brackets", unit_manifest(ROWS, unit=b"[" * 100_000), NOT_OURS),
    unit(
        "a unit of wrong types",
        unit_manifest(ROWS, unit=json.dumps({**asdict(UNIT), "keys": "ab"}).encode()),
        NOT_OURS,
    ),
    unit(
        "another unit",
        unit_manifest(ROWS, unit=json.dumps({**asdict(UNIT), "seed": 5}).encode()),
        NOT_OURS,
    ),
    unit("a summary that is a list", unit_manifest(ROWS, summary=b"[1]"), NOT_OURS),
    unit("a summary without attempt", unit_manifest(ROWS, summary=b"{}"), NOT_OURS),
    unit("a summary that is not UTF-8", unit_manifest(ROWS, summary=b'{"a": "\xff"}'), NOT_OURS),
]


def _captions(folder: Path) -> Any:
    (folder / "captions").mkdir()
    (folder / "captions/train-000000.parquet").write_bytes(PICKLE)
    return read_captions(open_store(str(folder)))


def _caption_numbers(folder: Path) -> Any:
    (folder / "captions").mkdir()
    table = pa.table({"key": [1], "caption": [[2]], "model": ["m"]})
    pq.write_table(table, folder / "captions/train-000000.parquet")
    return read_captions(open_store(str(folder)))


def _odd_names(folder: Path) -> Any:
    """Files and folders in a run that nobody of ours wrote."""
    store = open_store(str(folder))
    row = ManifestRow(**unit_row("a"))
    commit_unit(store, UnitCommit(unit=UNIT, rows=[row], summary={"attempt": "a1"}))
    for name in ("r=²", "r=", "r=-1", "r=x", "r=" + "9" * 200, "..r"):
        (folder / "manifest/units" / name).mkdir()
        (folder / "manifest/units" / name / "x.parquet").write_bytes(PICKLE)
    for name in ("v1", "v٠٠٠٠٠٠٠٠", "v00000001\n"):
        (folder / "weights" / name).mkdir(parents=True)
    return ManifestReader(store).refresh()


CAPTIONS = [
    Item("captions: a pickle", _captions, Refused(DamagedShardError, "not a captions file")),
    Item("captions: numbers", _caption_numbers, Refused(DamagedShardError, "not a captions file")),
    Item("run directory: odd names", _odd_names, Accepted(lambda found: len(found) == 1)),
]
