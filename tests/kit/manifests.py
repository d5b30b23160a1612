"""Units of two rows without shards, and a store that counts what is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from schemas.manifest import ManifestRow
from schemas.run_layout import compacted_path
from schemas.unit import Unit
from storage.files.stores import RunStore
from storage.manifests.compaction import compact
from storage.manifests.places import find_units
from storage.manifests.table import ManifestReader, commit_unit, manifest_table, read_unit
from storage.manifests.unit_outcome import UnitCommit


def make_unit(number: int = 0, *, round_index: int = 0) -> Unit:
    return Unit(
        round=round_index,
        kind="synthesize",
        source_shard="train-000000",
        keys=(f"a_{number}", f"b_{number}"),
        variants=1,
        seed=0,
        recipe_hash="f00d",
    )


def make_commit(unit: Unit, attempt: str = "one") -> UnitCommit:
    rows = [
        ManifestRow(
            run_id="run",
            round=unit.round,
            unit_id=unit.unit_id,
            unit_kind=unit.kind,
            attempt=attempt,
            key=f"{unit.unit_id}_{key}_v0",
            status=status,
            source_shard=unit.source_shard,
            source_key=key,
            creation_version=3,
            seed=2**63 - 1,
            gen_seconds=0.25,
        )
        for key, status in zip(unit.keys, ("ok", "failed"), strict=True)
    ]
    return UnitCommit(unit=unit, rows=rows, summary={"attempt": attempt, "ok": 1, "failed": 1})


def fill(store: RunStore, numbers: range) -> None:
    for number in numbers:
        commit_unit(store, make_commit(make_unit(number, round_index=number % 3)))


def revised(number: int, revision: int) -> UnitCommit:
    unit = make_unit(number, round_index=number % 3)
    commit = make_commit(unit, f"retry{revision}")
    return replace(
        commit,
        unit=replace(unit, revision=revision),
        rows=[replace(row, status="ok", revision=revision) for row in commit.rows],
    )


def expect_reads_as(store: RunStore, wanted: list[UnitCommit]) -> None:
    assert ManifestReader(store).refresh() == wanted
    rounds = {place.unit_id: place.round for place in find_units(store)}
    assert rounds == {c.unit.unit_id: c.unit.round for c in wanted}
    assert [read_unit(store, c.unit.round, c.unit.unit_id) for c in wanted] == wanted
    keys = [row.key for commit in wanted for row in commit.rows]
    assert manifest_table(store).column("key").to_pylist() == keys


class CountingFolders(RunStore):
    """Counts the names of listings by folder, and the objects that are read."""

    def __init__(self, store: RunStore) -> None:
        super().__init__(store.url, store.root)
        object.__setattr__(self, "names", Counter())
        object.__setattr__(self, "reads", Counter())

    def list_dir(self, rel: str) -> list[str]:
        found = super().list_dir(rel)
        self.names[rel] += len(found)
        return found

    def read_bytes(self, rel: str, **options: int | None) -> bytes:
        self.reads[rel] += 1
        return super().read_bytes(rel, **options)


class Overtaken(RunStore):
    """A store in which another compaction comes first."""

    def __init__(self, store: RunStore) -> None:
        super().__init__(store.url, store.root)

    def put_if_absent(self, rel: str, data: bytes) -> None:
        store = RunStore(self.url, self.root)
        if not store.exists(compacted_path(0)):
            compact(store, units_per_file=2)
        super().put_if_absent(rel, data)
