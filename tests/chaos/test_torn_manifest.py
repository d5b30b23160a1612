"""Committed files that a disk has lost in part: the same command brings the run to its plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.compact import main as compact_main
from pipeline.loop.control import GenerationControl
from sources.live_shards import LiveShardList
from storage.manifests.compaction import compact
from storage.manifests.table import ManifestReader
from storage.records.weights import WeightsWatch, list_versions
from tests.kit.small_jobs import (
    begin_run,
    collect_garbage,
    expect_damage,
    expect_verified,
    generate_again,
    let_a_day_go_by,
    retry_units,
    status_of,
)
from tests.kit.small_run import all_commits, digests, publish
from tests.kit.wholeness import expect_whole

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(90)]

Tear = Callable[[bytes], bytes]

TORN: dict[str, Tear] = {
    "of no bytes": lambda data: b"",
    "of its first bytes": lambda data: data[:100],
    "cut in the middle": lambda data: data[: len(data) // 2],
    "without its last byte": lambda data: data[:-1],
    "of zeros": lambda data: bytes(len(data)),
    "with zeros at its end": lambda data: data[:-512] + bytes(512),
}


def tear(store, path: str, how: Tear) -> None:
    file = Path(store.root, path)
    file.write_bytes(how(file.read_bytes()))


def manifests(store) -> list[str]:
    found = Path(store.root, "manifest/units").rglob("*.parquet")
    return sorted(str(path.relative_to(store.root)) for path in found)


@pytest.mark.smoke
def test_torn_manifests_are_passed_over_named_and_their_units_made_again_by_the_same_command(
    tmp_path, capsys
):
    config, store, plan = begin_run(tmp_path, plan={"unit_size": 1})
    generate_again(store)
    images, paths = digests(config), manifests(store)[: len(TORN)]
    for path, how in zip(paths, TORN.values(), strict=True):
        tear(store, path, how)
    # Readers pass over them, and the jobs that look say which they are.
    reader, live = ManifestReader(store), LiveShardList(store, poll_s=0)
    assert len(reader.refresh()) == len(plan) - len(TORN)
    live.refresh()
    assert live.num_samples == len(plan) - len(TORN)
    assert status_of(store, capsys)["units"]["torn_paths"] == paths
    progress = GenerationControl(config, store, plan).progress()
    assert (progress["torn_manifests"], progress["torn_paths"]) == (len(TORN), paths[:5])
    expect_damage(store, capsys, *paths)
    # The same command: the units' next revisions stand beside the torn files.
    generate_again(store)
    assert {row["revision"] for row in expect_whole(store.url, plan)} == {0, 1}
    assert digests(config, leave_out=("json",)) == {
        key: digest for key, digest in images.items() if key[2] != "json"
    }
    expect_verified(store)
    assert status_of(store, capsys)["units"]["torn_paths"] == []
    live.refresh()
    assert live.num_samples == len(plan)
    generate_again(store)
    assert len(manifests(store)) == len(plan) + len(TORN), "a further time makes nothing"
    # Other tools stumble over torn files: tidying puts them away.
    compact_main([store.url, "--all"])
    let_a_day_go_by(store.root)
    collect_garbage(store, "--delete")
    assert manifests(store) == []
    expect_whole(store.url, plan)
    expect_verified(store)


def test_a_stretch_that_changed_within_a_manifest_is_found_and_a_retry_makes_the_unit_again(
    tmp_path, capsys
):
    config, store, plan = begin_run(tmp_path)
    generate_again(store)
    path = manifests(store)[0]
    whole = Path(store.root, path).read_bytes()
    wanted = {each.unit.unit_id: each for each in all_commits(config)}
    refused = 0
    for place in range(0, len(whole), 97):
        inverted = bytes(255 - byte for byte in whole[place : place + 64])
        Path(store.root, path).write_bytes(whole[:place] + inverted + whole[place + 64 :])
        found = {each.unit.unit_id: each for each in all_commits(config)}
        # It is passed over, or what changed is of no consequence: never are other rows read.
        assert [wanted[unit_id] for unit_id in found] == list(found.values()), place
        refused += found != wanted
    assert refused > 50
    tear(store, path, lambda _: whole[:64] + bytes(64) + whole[128:])
    expect_damage(store, capsys, path)
    retry_units(store)
    expect_whole(store.url, plan)
    expect_verified(store)


def test_a_torn_compacted_file_whose_units_lie_nowhere_else_is_made_up_for(tmp_path, capsys):
    _, store, plan = begin_run(tmp_path)
    generate_again(store)
    compact(store, units_per_file=2)
    for path in manifests(store):
        Path(store.root, path).unlink()
    expect_whole(store.url, plan)
    lost = "manifest/compacted/part-000000.parquet"
    tear(store, lost, lambda data: data[:300])
    assert len(ManifestReader(store).refresh()) == 2
    expect_damage(store, capsys, lost)
    generate_again(store)
    expect_whole(store.url, plan)
    assert status_of(store, capsys)["units"] == {
        "committed": 4,
        "planned": 4,
        "torn": 1,
        "torn_paths": [lost],
    }


def test_torn_captions_are_made_again_by_the_same_command(tmp_path, capsys):
    _, store, plan = begin_run(tmp_path)
    tear(store, "captions/train-000000.parquet", TORN["cut in the middle"])
    tear(store, "captions/train-000001.parquet", TORN["of no bytes"])
    expect_damage(store, capsys, "captions/train-000000", "captions/train-000001")
    generate_again(store)
    rows = expect_whole(store.url, plan)
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["caption"] for row in rows} == {f"a room {row['source_key']}" for row in rows}
    expect_verified(store)


def test_generators_take_the_newest_version_that_is_whole(tmp_path, capsys, caplog):
    config, store, plan = begin_run(tmp_path)
    publish(config, 1)
    publish(config, 2)
    tear(store, "weights/v00000002/manifest.json", TORN["cut in the middle"])
    tear(store, "weights/v00000001/model.safetensors", TORN["cut in the middle"])
    generate_again(store)
    rows = expect_whole(store.url, plan)
    assert {row["creation_version"] for row in rows} == {0}
    assert "weights_are_passed_over version=1" in caplog.text
    assert "weights_are_passed_over version=2" in caplog.text
    expect_damage(store, capsys, "weights/v00000001", "weights/v00000002")
    # A trainer that goes on from its checkpoint publishes the same again, which mends it.
    publish(config, 1)
    assert list_versions(store) == [0, 1, 2]
    newest = WeightsWatch(store).newer_than(None)
    assert newest is not None
    assert newest[0].version == 1


def test_with_no_whole_version_generation_fails_and_says_which_file(tmp_path):
    _, store, _ = begin_run(tmp_path)
    tear(store, "weights/v00000000/model.safetensors", TORN["cut in the middle"])
    with pytest.raises(Exception, match="v00000000: no file with sha256"):
        generate_again(store)
    (ended,) = [
        json.loads(line)
        for path in sorted(Path(store.root, "events").glob("run.*"))
        for line in path.read_text().splitlines()
        if "run_failed" in line
    ]
    assert "v00000000" in ended["reason"]
