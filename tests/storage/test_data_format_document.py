"""docs/data_format.md says what the code does."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import duckdb
import numpy as np
import pytest

from schemas.manifest import COLUMN_TYPES
from schemas.sample import MEMBER_ORDER
from schemas.weights import WeightsManifest
from storage.files.stores import open_store
from storage.manifests.compaction import compact
from storage.manifests.table import ManifestReader, commit_unit, manifest_table
from storage.samples.codecs import encode_image_png
from storage.samples.shards import pack_tar
from tests.kit.faults.commit_worker import SAMPLES_PER_UNIT, write_and_commit

TEXT = (Path(__file__).parents[2] / "docs/data_format.md").read_text()


def test_every_column_is_described_in_order_with_its_type() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (int|float|str) \| .+ \|$", TEXT, re.MULTILINE)
    assert rows == list(COLUMN_TYPES.items())


def test_every_member_is_described_in_order() -> None:
    section = TEXT.partition("## A shard")[2].partition("###")[0]
    assert tuple(re.findall(r"^\| `([\w.]+)` \|", section, re.MULTILINE)) == MEMBER_ORDER


def test_every_field_of_a_weights_manifest_is_named() -> None:
    section = TEXT.partition("## Weights")[2].partition("##")[0]
    assert {f.name for f in fields(WeightsManifest)} <= set(re.findall(r"`(\w+)`", section))


def test_the_worked_example_is_right() -> None:
    sizes = {"image.png": 700, "normals.png": 600, "depth.png": 300, "semseg.png": 150, "json": 90}
    first = {member: bytes(size) for member, size in sizes.items()}
    second = {"image.png": bytes(650), "json": bytes(90)}
    packed = pack_tar([("room_000001_0", first), ("room_000001_1", second)])
    assert packed.offsets == {"room_000001_0": (0, 6144), "room_000001_1": (6144, 2560)}
    assert len(packed.data) == 8704 + 1536


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_queries_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_and_commit(open_store("runs/demo"), 0, "one")
    queries, _ = code_blocks("sql")
    results = [duckdb.sql(query).fetchall() for query in queries.split(";") if query.strip()]
    assert results[0] == [(0, "ok", SAMPLES_PER_UNIT)]
    assert results[1] == []
    assert len(results[2]) == SAMPLES_PER_UNIT


def test_the_view_shows_every_sample_once_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("runs/demo")
    for number in range(3):
        write_and_commit(store, number, "one")
    first = ManifestReader(store).refresh()[0]
    compact(store, units_per_file=2)
    retried = replace(first, unit=replace(first.unit, revision=1))
    commit_unit(store, replace(retried, rows=[replace(r, status="failed") for r in first.rows]))
    _, queries = code_blocks("sql")
    view, count, _ = queries.split(";")
    with duckdb.connect() as connection:
        connection.sql(view)
        found = {status: n for _, status, n in connection.sql(count).fetchall()}
    assert found == {"ok": 2 * SAMPLES_PER_UNIT, "failed": SAMPLES_PER_UNIT}
    assert manifest_table(store).num_rows == 3 * SAMPLES_PER_UNIT


def test_the_example_in_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    image = np.full((4, 5, 3), 7, np.uint8)
    write_and_commit(open_store("runs/demo"), 0, "one", image_png=encode_image_png(image))
    (example,) = code_blocks("python")
    names: dict[str, object] = {}
    exec(example, names)
    np.testing.assert_array_equal(names["sample"].image, image)
