"""Manifests that earlier versions of the code wrote read as if they were written now."""

from __future__ import annotations

import io
import re
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from schemas.manifest import SCHEMA_VERSION
from schemas.run_layout import unit_manifest_path
from schemas.unit import Unit
from storage.files.stores import RunStore
from storage.manifests.compaction import compact
from storage.manifests.table import ManifestReader, commit_unit, manifest_table, read_unit
from tests.kit.manifests import make_commit, make_unit

DATA = Path(__file__).with_name("data")
FILES = sorted(DATA.glob("manifest_version_*.parquet"))


def put(store: RunStore, file: Path) -> Unit:
    """Lay a manifest of an earlier version where it would lie in a run."""
    data = file.read_bytes()
    unit = Unit.from_json(pq.read_schema(io.BytesIO(data)).metadata[b"unit"].decode())
    store.write_bytes(unit_manifest_path(round_index=unit.round, unit_id=unit.unit_id), data)
    return unit


def test_there_is_a_manifest_of_every_version() -> None:
    found = [int(re.findall(r"\d+", file.stem)[0]) for file in FILES]
    assert found == list(range(1, SCHEMA_VERSION + 1))
    for file, version in zip(FILES, found, strict=True):
        assert pq.read_schema(file).metadata[b"schema_version"] == str(version).encode()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_earlier_version_reads(local_store: RunStore, file: Path) -> None:
    unit = put(local_store, file)
    commit = read_unit(local_store, unit.round, unit.unit_id)
    assert commit.unit.revision == 0
    assert [row.status for row in commit.rows] == ["ok", "failed"]
    assert [row.caption for row in commit.rows] == ["room a", "room b"]
    assert {row.revision for row in commit.rows} == {0}
    made_by = {(row.creator_version, row.creator_hash, row.label_origin) for row in commit.rows}
    knows_origin = "label_origin" in pq.read_schema(file).names
    assert made_by == {(4, "feed", "agreed") if knows_origin else (-1, "", "creation")}
    assert ManifestReader(local_store).refresh() == [commit]


def test_all_versions_read_together_and_compact_together(local_store: RunStore) -> None:
    for file in FILES:
        put(local_store, file)
    commit_unit(local_store, make_commit(make_unit()))
    before = ManifestReader(local_store).refresh()
    assert len(before) == len(FILES) + 1
    assert manifest_table(local_store).num_rows == 2 * len(before)
    compact(local_store, units_per_file=len(before))
    assert ManifestReader(local_store).refresh() == before
    glob = f"{local_store.root}/manifest/**/*.parquet"
    rows = duckdb.sql(
        f"select revision, count(distinct key) from read_parquet('{glob}', union_by_name=true) "
        "where revision is not null group by all"
    ).fetchall()
    assert rows == [(0, 2 * len(before))]
