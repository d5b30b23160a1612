"""Manifests: the commit has one winner, readers see whole units once, DuckDB reads them."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import DamagedShardError
from schemas.manifest import COLUMN_TYPES
from schemas.run_layout import unit_manifest_path
from schemas.unit import Unit
from storage.files.stores import RunStore
from storage.manifests.places import find_units
from storage.manifests.table import ManifestReader, commit_unit, manifest_table, read_unit
from tests.kit.manifests import CountingFolders, make_commit, make_unit


def path_of(unit: Unit) -> str:
    return unit_manifest_path(round_index=unit.round, unit_id=unit.unit_id)


def test_a_committed_unit_reads_back_whole(store: RunStore) -> None:
    commit = make_commit(make_unit())
    assert commit_unit(store, commit)
    assert read_unit(store, 0, commit.unit.unit_id) == commit
    assert [(p.unit_id, p.round) for p in find_units(store)] == [(commit.unit.unit_id, 0)]


def test_the_first_attempt_stands_and_may_ask_again(store: RunStore) -> None:
    unit = make_unit()
    first, second = make_commit(unit, "first"), make_commit(unit, "second")
    assert commit_unit(store, first)
    assert not commit_unit(store, second)
    assert commit_unit(store, first), "a repeated request of the winner is answered with yes"
    assert read_unit(store, 0, unit.unit_id).attempt == "first"


def test_a_unit_without_samples_can_be_committed(store: RunStore) -> None:
    commit = replace(make_commit(make_unit()), rows=[])
    assert commit_unit(store, commit)
    assert read_unit(store, 0, commit.unit.unit_id) == commit
    assert manifest_table(store).num_rows == 0


def test_a_reader_gets_each_unit_once_in_order(store: RunStore) -> None:
    units = [make_unit(0), make_unit(1, round_index=1), make_unit(2), make_unit(3, round_index=2)]
    reader = ManifestReader(store)
    assert reader.refresh() == []
    for unit in units[:3]:
        commit_unit(store, make_commit(unit))
    found = [(commit.unit.round, commit.unit.unit_id) for commit in reader.refresh()]
    assert found == sorted((unit.round, unit.unit_id) for unit in units[:3])
    commit_unit(store, make_commit(units[3]))
    assert [commit.unit for commit in reader.refresh()] == [units[3]]
    assert reader.refresh() == []


def test_each_manifest_is_read_once_however_often_one_looks(local_store: RunStore) -> None:
    store = CountingFolders(local_store)
    reader = ManifestReader(store)
    units = [make_unit(number, round_index=number % 3) for number in range(9)]
    for unit in units:
        commit_unit(local_store, make_commit(unit))
        reader.refresh()
    for _ in range(5):
        reader.refresh()
    assert store.reads == Counter({path_of(unit): 1 for unit in units})


def test_a_torn_manifest_is_not_visible_until_it_is_whole(local_store: RunStore) -> None:
    unit, other = make_unit(0), make_unit(1)
    commit_unit(local_store, make_commit(unit))
    commit_unit(local_store, make_commit(other))
    whole = local_store.read_bytes(path_of(unit))
    local_store.write_bytes(path_of(unit), whole[: len(whole) // 2])
    reader = ManifestReader(local_store)
    assert [commit.unit for commit in reader.refresh()] == [other]
    assert reader.torn == 1
    assert manifest_table(local_store).num_rows == 2
    with pytest.raises(DamagedShardError, match="makes the unit again"):
        read_unit(local_store, 0, unit.unit_id)
    local_store.write_bytes(path_of(unit), whole)
    assert [commit.unit for commit in reader.refresh()] == [unit]
    assert reader.torn == 0


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.6, 0.9, 0.999])
def test_a_manifest_cut_anywhere_is_torn(local_store: RunStore, share: float) -> None:
    unit = make_unit()
    commit_unit(local_store, make_commit(unit))
    whole = local_store.read_bytes(path_of(unit))
    local_store.write_bytes(path_of(unit), whole[: int(share * len(whole))])
    reader = ManifestReader(local_store)
    assert reader.refresh() == []
    assert reader.torn == 1


def test_what_was_read_before_an_error_is_not_lost(local_store: RunStore) -> None:
    class FailingStore(CountingFolders):
        def read_bytes(self, rel: str, **options: int | None) -> bytes:
            if sum(self.reads.values()) == 1:
                self.reads["failure"] += 1
                raise ConnectionError("the store is away")
            return super().read_bytes(rel, **options)

    for number in range(3):
        commit_unit(local_store, make_commit(make_unit(number)))
    reader = ManifestReader(FailingStore(local_store))
    with pytest.raises(ConnectionError):
        reader.refresh()
    assert len(reader.refresh()) == 3


def test_a_foreign_file_in_the_folder_is_left_alone(local_store: RunStore) -> None:
    commit_unit(local_store, make_commit(make_unit()))
    local_store.write_bytes("manifest/units/r=0000/notes.txt", b"?")
    local_store.write_bytes("manifest/units/README", b"?")
    local_store.write_bytes("manifest/units/r=0000/.x.tmp", b"?")
    assert len(find_units(local_store)) == 1


def test_a_parquet_file_that_is_no_manifest_is_damage(local_store: RunStore) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"x": [1]}), buffer)
    local_store.write_bytes(path_of(make_unit()), buffer.getvalue())
    with pytest.raises(DamagedShardError, match="schema version"):
        read_unit(local_store, 0, make_unit().unit_id)


def test_the_columns_are_those_of_the_schema(local_store: RunStore) -> None:
    unit = make_unit()
    commit_unit(local_store, make_commit(unit))
    schema = pq.read_schema(io.BytesIO(local_store.read_bytes(path_of(unit))))
    kinds = {"int": "int64", "float": "double", "str": "string"}
    assert {f.name: str(f.type) for f in schema} == {n: kinds[k] for n, k in COLUMN_TYPES.items()}
    assert schema.metadata[b"schema_version"] == b"3"
    assert Unit.from_json(schema.metadata[b"unit"].decode()) == unit
    assert json.loads(schema.metadata[b"summary"])["attempt"] == "one"


def test_older_and_newer_manifests_read_together(local_store: RunStore) -> None:
    old, new, usual = (make_commit(make_unit(number)) for number in range(3))
    for commit in (old, new, usual):
        commit_unit(local_store, commit)
    rewrite(local_store, old.unit, lambda table: table.drop_columns(["node_id"]))
    rewrite(local_store, new.unit, lambda table: table.append_column("phash", [["x", "y"]]))
    assert read_unit(local_store, 0, old.unit.unit_id) == old
    assert read_unit(local_store, 0, new.unit.unit_id) == new
    table = manifest_table(local_store)
    assert table.num_rows == 6
    assert table.column("phash").null_count == 4
    assert table.column("node_id").null_count == 2


def rewrite(store: RunStore, unit: Unit, change) -> None:
    table = pq.read_table(io.BytesIO(store.read_bytes(path_of(unit))))
    buffer = io.BytesIO()
    pq.write_table(change(table), buffer)
    store.write_bytes(path_of(unit), buffer.getvalue())


def test_duckdb_reads_all_manifests_of_a_run(local_store: RunStore) -> None:
    for number in range(4):
        commit_unit(local_store, make_commit(make_unit(number, round_index=number % 2)))
    files = str(Path(local_store.root, "manifest/units/**/*.parquet"))
    rows = duckdb.sql(
        f"select creation_version, status, count(*) from '{files}' group by all order by all"
    ).fetchall()
    assert rows == [(3, "failed", 4), (3, "ok", 4)]
    # The folder names r=0000 add a column r, which no column of ours is called.
    columns = duckdb.sql(f"select * from '{files}'").columns
    assert columns[: len(COLUMN_TYPES)] == list(COLUMN_TYPES)
    assert set(columns[len(COLUMN_TYPES) :]) <= {"r"}
    by_round = duckdb.sql(f"select round, count(*) from '{files}' group by all order by all")
    assert by_round.fetchall() == [(0, 4), (1, 4)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"summary": {}}, "attempt"),
        ({"summary": {"attempt": "two"}}, "attempt two"),
        ({"unit": make_unit(7)}, "wanted unit"),
        ({"rows": make_commit(make_unit()).rows[:1] * 2}, "twice"),
    ],
)
def test_rows_that_do_not_belong_together_are_not_committed(
    local_store: RunStore, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        commit_unit(local_store, replace(make_commit(make_unit()), **change))
    assert find_units(local_store) == []
