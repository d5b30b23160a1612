"""The job that checks a run: quiet on a good one, exact about each kind of damage."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace

import pytest

from jobs.verify import Verification, main
from runs.directory import claim_run_directory
from runs.verification import NamedWeights
from schemas.digest import sha256_of
from schemas.errors import ConfigError, RunFailedError
from schemas.run_layout import compacted_path, unit_manifest_path
from storage.files.stores import RunStore, open_store
from storage.manifests.compaction import compact
from storage.manifests.table import commit_unit
from storage.manifests.unit_outcome import UnitCommit
from storage.records.captions import CaptionRow, write_captions
from storage.samples.shards import pack_tar, read_tar
from tests.kit.committed_units import (
    commit,
    image_unit,
    publish,
    relabel_unit,
)
from tests.kit.small_run import make_config

UNIT = image_unit("a")


def fill(run: RunStore) -> UnitCommit:
    """Two rounds of two units, two versions of weights."""
    publish(run, 0)
    publish(run, 1)
    made = commit(run, UNIT, version=0, filtered=("a1",))
    commit(run, relabel_unit(UNIT, round_index=1), version=1)
    commit(run, image_unit("b"), version=0)
    return made


def problems(run: RunStore, *, workers: int = 2) -> list[tuple[str, str]]:
    return [(found.path, found.text) for found in Verification(run).problems(workers=workers)]


def the_problem(run: RunStore) -> tuple[str, str]:
    (found,) = problems(run)
    return found


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path) -> RunStore:
    kind = f"memory://{uuid.uuid4().hex}" if request.param == "memory" else str(tmp_path / "store")
    return open_store(kind)


@pytest.fixture
def run(tmp_path) -> RunStore:
    config = make_config(tmp_path)
    opened = open_store(config.run.url)
    claim_run_directory(opened, config)
    return opened


def replace_tar(run: RunStore, made: UnitCommit, data: bytes) -> UnitCommit:
    """Put other bytes in the place of a unit's shard and name them in its rows."""
    run.write_bytes(made.rows[0].tar_uri, data)
    rows = [
        replace(row, tar_sha256=sha256_of(data)) if row.status == "ok" else row for row in made.rows
    ]
    return rewrite(run, replace(made, rows=rows))


def rewrite(run: RunStore, made: UnitCommit) -> UnitCommit:
    path = run.root + "/" + path_of(made)
    run.fs.rm_file(path)
    assert commit_unit(run, made)
    return made


def path_of(made: UnitCommit) -> str:
    return unit_manifest_path(round_index=made.unit.round, unit_id=made.unit.unit_id)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_good_run_has_no_problem(store: RunStore, workers: int) -> None:
    fill(store)
    assert problems(store, workers=workers) == []
    compact(store, units_per_file=2)
    assert problems(store, workers=workers) == []


def test_the_job_ends_quietly_on_a_good_run_and_fails_on_another(run, capsys):
    made = fill(run)
    main([run.url])
    assert "3 units, 11 samples in 3 shards, 2 versions" in capsys.readouterr().out
    run.write_bytes(made.rows[0].tar_uri, b"?")
    with pytest.raises(RunFailedError, match="2 problem"):
        main([run.url])
    printed = capsys.readouterr().out
    assert made.rows[0].tar_uri in printed
    assert f"jobs/retry.py RUN --units {UNIT.unit_id}" in printed


def test_json_has_counts_and_problems(run, capsys):
    made = fill(run)
    main([run.url, "--json"])
    whole = json.loads(capsys.readouterr().out)
    assert list(whole) == [
        *("run", "units", "samples", "shards", "versions", "unnamed_objects", "unnamed_bytes"),
        "problems",
    ]
    assert (whole["units"], whole["samples"], whole["versions"]) == (3, 11, 2)
    assert whole["problems"] == []
    run.write_bytes(made.rows[0].tar_uri, b"?")
    with pytest.raises(RunFailedError):
        main([run.url, "--json"])
    (problem, *_) = json.loads(capsys.readouterr().out)["problems"]
    assert set(problem) == {"path", "text", "remedy"}


def test_a_directory_without_a_run_is_the_users_mistake(tmp_path):
    with pytest.raises(ConfigError):
        main([str(tmp_path / "nothing")])


def test_a_missing_shard_is_found(run):
    made = fill(run)
    run.fs.rm_file(f"{run.root}/{made.rows[0].tar_uri}")
    assert the_problem(run) == (made.rows[0].tar_uri, "wanted a committed shard, found none")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_shard_cut_anywhere_is_found(run, share):
    made = fill(run)
    uri = made.rows[0].tar_uri
    data = run.read_bytes(uri)
    run.write_bytes(uri, data[: int(share * len(data))])
    found = problems(run)
    assert {path for path, _ in found} == {uri}
    assert any("sha256" in text for _, text in found)


def test_one_changed_bit_is_found(run):
    made = fill(run)
    uri = made.rows[0].tar_uri
    data = bytearray(run.read_bytes(uri))
    data[700] ^= 1
    run.write_bytes(uri, bytes(data))
    assert any(path == uri and "sha256" in text for path, text in problems(run))


def test_a_member_that_does_not_decode_is_found_though_the_digest_fits(run):
    made = fill(run)
    samples = list(read_tar(run.read_bytes(made.rows[0].tar_uri)))
    samples[0][1]["depth.png"] = b"no picture"
    replace_tar(run, made, pack_tar(samples).data)
    path, text = the_problem(run)
    assert path == made.rows[0].tar_uri
    assert text.startswith(f"{made.rows[0].key}: decode_failed")


def test_a_sample_that_is_not_in_the_shard_is_found(run):
    made = fill(run)
    samples = list(read_tar(run.read_bytes(made.rows[0].tar_uri)))
    replace_tar(run, made, pack_tar(samples[:-1]).data)
    assert "1 of its samples are not in it" in the_problem(run)[1]


def test_a_place_that_is_wrong_is_found(run):
    made = fill(run)
    rows = [replace(made.rows[0], tar_offset=512, tar_size=1), *made.rows[1:]]
    rewrite(run, replace(made, rows=rows))
    assert "not where its row says (512, 1)" in the_problem(run)[1]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda made: replace(made, rows=made.rows[:-1]), "wanted 4 samples once each"),
        (
            lambda made: replace(made, summary={**made.summary, "counts": {"ok": 4}}),
            "its summary counts",
        ),
        (
            lambda made: replace(made, rows=[replace(made.rows[0], status="?"), *made.rows[1:]]),
            "unknown status",
        ),
    ],
)
def test_rows_that_do_not_add_up_are_found(run, change, text):
    changed = rewrite(run, change(fill(run)))
    found = [each for path, each in problems(run) if path == path_of(changed)]
    assert found[0].startswith(text)


def test_a_torn_manifest_and_a_torn_compacted_file_are_found(run):
    made = fill(run)
    whole = run.read_bytes(path_of(made))
    run.write_bytes(path_of(made), whole[:300])
    path, text = the_problem(run)
    assert path == path_of(made)
    assert "not a whole Parquet file" in text
    run.write_bytes(path_of(made), whole)
    compact(run, units_per_file=3)
    run.write_bytes(compacted_path(0), run.read_bytes(compacted_path(0))[:300])
    assert the_problem(run)[0] == compacted_path(0)


def test_a_key_that_two_units_of_a_round_have_is_found(run):
    fill(run)
    taken = commit(run, image_unit("c"), version=0)
    again = image_unit("d")
    rows = [replace(row, unit_id=again.unit_id, status="failed", tar_uri="") for row in taken.rows]
    commit_unit(run, UnitCommit(unit=again, rows=rows, summary={"attempt": "a1"}))
    assert any("named after another unit" in text for _, text in problems(run))


def test_labels_of_the_same_images_twice_in_a_round_are_found(run):
    fill(run)
    other = replace(relabel_unit(UNIT, round_index=1), seed=7)
    commit(run, other, version=1)
    assert "another unit of the round has the keys" in the_problem(run)[1]


def test_damaged_weights_are_found(run):
    fill(run)
    run.write_bytes("weights/v00000001/model.safetensors", b"other")
    path, text = the_problem(run)
    assert path == "weights/v00000001"
    assert "no file with sha256" in text


def test_labels_of_other_weights_than_the_version_holds_are_found(run):
    made = fill(run)
    rewrite(run, replace(made, rows=[replace(row, head_hash="beef") for row in made.rows]))
    assert "labelled with other weights than version 0" in the_problem(run)[1]


def test_a_version_of_the_creator_that_made_images_has_to_be_there(run, capsys):
    fill(run)
    weights = publish(run, 3, series="creator")
    made = commit(run, image_unit("c"), version=0, creator=weights)
    assert problems(run) == []
    main([run.url])
    assert "2 versions of weights, 1 version of the creator's" in capsys.readouterr().out
    main([run.url, "--json"])
    assert json.loads(capsys.readouterr().out)["creator_versions"] == 1
    run.remove_file("creator/v00000003/manifest.json")
    path, text = the_problem(run)
    assert path == path_of(made)
    assert text == "made with version 3 of the creator, which is not there"


def test_images_of_other_weights_than_the_creators_version_holds_are_found(run):
    fill(run)
    weights = publish(run, 0, series="creator")
    commit(run, image_unit("c"), version=0, creator=replace(weights, sha256="beef"))
    assert "made with other weights than version 0 of the creator" in the_problem(run)[1]


def test_damaged_weights_of_the_creator_are_found(run):
    fill(run)
    publish(run, 0, series="creator")
    run.write_bytes("creator/v00000000/model.safetensors", b"other")
    path, text = the_problem(run)
    assert path == "creator/v00000000"
    assert "no file with sha256" in text


def test_a_version_that_is_published_while_units_are_checked_is_no_problem(run):
    weights = NamedWeights(run)
    assert list(weights.check_published()) == []
    made = commit(run, UNIT, version=0, creator=publish(run, 0, series="creator"))
    assert list(weights.problems(made)) == []


def test_missing_captions_are_found(run):
    made = fill(run)
    write_captions(run, UNIT.source_shard, [CaptionRow("a0", "a room", "m")])
    rewrite(run, replace(made, rows=[replace(row, caption_model="m") for row in made.rows]))
    path, text = the_problem(run)
    assert path == f"captions/{UNIT.source_shard}.parquet"
    assert text == "no caption of 3 source keys, first a1"


def test_the_end_of_a_stage_is_checked(run):
    fill(run)
    folder = "checkpoints/warm_up/final"
    run.write_bytes(f"{folder}/creation.safetensors", b"theta")
    for data, is_good in ((b"theta", True), (b"other", False)):
        content = {"sha256": {"creation.safetensors": sha256_of(data)}}
        run.write_bytes(f"{folder}/final.json", json.dumps(content).encode())
        assert (problems(run) == []) == is_good


def test_a_crash_between_tar_and_manifest_leaves_nothing_wrong(run, capsys):
    fill(run)
    run.write_bytes("shards/r=0000/w=00000000/0123456789abcdef.a1.tar", b"half")
    main([run.url])
    assert "1 object of 4 bytes in shards that no manifest names" in capsys.readouterr().out
