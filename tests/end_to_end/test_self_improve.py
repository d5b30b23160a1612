"""The whole loop as one command: interrupted, killed, resumed; and what is in its directory."""

from __future__ import annotations

import json
import runpy
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

from tests.kit.job_process import (
    FEW_ROOMS,
    ROOT,
    Ended,
    arguments_of,
    environment,
    finish_job,
    ray_folder,
    running_job,
)
from tests.kit.run_reader import (
    PNG_SIGNATURE,
    first_rooms,
    manifest_rows,
    members_by_key,
    sha256,
    tars,
    unit_files,
    version_files,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(2400)]

ROUNDS = 2
NUM_LABELLED = 8


@dataclass
class Story:
    """One run: stopped by Ctrl-C, killed, brought to its end, called once more."""

    run: Path
    interrupted: Ended
    killed: Ended
    before_the_kill: dict[Path, str]
    left_by_the_kill: dict[Path, str]
    finished: Ended
    called_again: Ended


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    folder = tmp_path_factory.mktemp("self_improve")
    run = folder / "run"
    arguments = arguments_of("configs/rooms_demo.yaml", run, *FEW_ROOMS)
    with ray_folder() as ray:
        how = {"environment": environment(ray)}
        with running_job("self_improve", arguments, log=folder / "1.log", **how) as job:
            job.wait_until(lambda: version_files(run), "the first version")
            interrupted = job.signal(signal.SIGINT)
        with running_job("self_improve", arguments, log=folder / "2.log", **how) as job:
            job.wait_until(lambda: unit_files(run), "the first units")
            before = digests(run)
            killed = job.signal(signal.SIGKILL)
        left = digests(run)
        finished = finish_job("self_improve", arguments, log=folder / "3.log", **how)
        again = finish_job("self_improve", arguments, log=folder / "4.log", **how)
    return Story(run, interrupted, killed, before, left, finished, again)


def digests(run: Path) -> dict[Path, str]:
    """What is committed: manifests of units, and weights."""
    return {path: sha256(path) for path in [*unit_files(run), *version_files(run)]}


def test_ctrl_c_ends_cleanly_and_says_that_the_same_command_resumes(story):
    assert story.interrupted.code == 130, story.interrupted.output
    assert "the same command resumes" in story.interrupted.output
    assert "Traceback" not in story.interrupted.output
    assert story.interrupted.survivors == []
    assert story.interrupted.seconds < 90


def test_no_process_outlives_a_kill_of_the_job(story):
    assert story.killed.code == -signal.SIGKILL
    assert story.killed.survivors == []


def test_the_same_command_brings_a_killed_run_to_its_end(story):
    assert story.finished.code == 0, story.finished.output
    assert story.finished.survivors == []
    assert len(story.left_by_the_kill) < len(digests(story.run))


def test_what_was_committed_before_the_kill_is_kept_as_it_was(story):
    assert any("manifest" in path.parts for path in story.before_the_kill)
    assert story.before_the_kill.items() <= story.left_by_the_kill.items()
    assert story.left_by_the_kill.items() <= digests(story.run).items()


def test_every_planned_key_is_there_once_in_each_round(story):
    found = Counter((row["round"], row["source_key"]) for row in manifest_rows(story.run))
    keys = first_rooms(ROOT / "data/rooms", NUM_LABELLED)
    assert len(set(keys)) == NUM_LABELLED
    assert found == Counter((number, key) for number in range(ROUNDS) for key in keys)


def test_later_rounds_label_the_same_images_again(story):
    names: dict[int, set[str]] = {}
    for row in manifest_rows(story.run):
        names.setdefault(row["round"], set()).add(row["key"])
    assert names[0] == names[1]
    assert len(names[0]) == NUM_LABELLED


def test_shards_open_with_tarfile_alone_and_hold_what_the_manifests_say(story):
    stored = {(uri, key) for uri in tars(story.run) for key in members_by_key(story.run / uri)}
    good = [row for row in manifest_rows(story.run) if row["status"] == "ok"]
    assert stored == {(row["tar_uri"], row["key"]) for row in good}
    first = members_by_key(story.run / good[0]["tar_uri"])[good[0]["key"]]
    assert first["image.png"].startswith(PNG_SIGNATURE)
    assert first["normals.png"].startswith(PNG_SIGNATURE)
    assert list(first)[-1] == "json"
    assert json.loads(first["json"])["caption"] == good[0]["caption"]


def test_every_digest_in_the_manifests_matches_its_shard(story):
    promised = tars(story.run)
    assert promised
    assert {uri: sha256(story.run / uri) for uri in promised} == promised


def test_every_image_has_a_caption_of_the_captioner(story):
    rows = manifest_rows(story.run)
    assert all(len(row["caption"].split()) >= 3 for row in rows)
    assert {row["caption_model"].partition(":")[0] for row in rows} == {"blip2"}


def test_the_query_of_the_example_that_the_readme_names_answers(story):
    assert "examples/read_manifest_with_duckdb.py runs/demo" in (ROOT / "README.md").read_text()
    example = runpy.run_path(str(ROOT / "examples/read_manifest_with_duckdb.py"))
    with duckdb.connect() as connection:
        connection.execute(example["SAMPLES"], {"manifests": f"{story.run}/manifest/**/*.parquet"})
        answer = connection.execute(example["COUNTS"]).fetchall()
    assert sum(count for *_, count in answer) == ROUNDS * NUM_LABELLED
    assert len({version for version, status, _ in answer if status == "ok"}) >= ROUNDS


def test_the_results_hold_all_three_scores_and_counts_that_add_up(story):
    results = json.loads((story.run / "results.json").read_text())
    for row in ("warm_up", "real_only_control", "self_improved"):
        assert 0 < results[row]["normals"]["mean_deg"] < 180
        assert 0 <= results[row]["normals"]["pct_11_25"] <= 100
    rows = manifest_rows(story.run)
    counts = results["counts"]
    assert counts["units"] == len(unit_files(story.run)) == ROUNDS * NUM_LABELLED // 4
    assert counts["samples_by_status"] == dict(Counter(row["status"] for row in rows))
    assert sum(counts["pairs_by_creation_version"].values()) == counts["samples_by_status"]["ok"]
    assert counts["published_versions"] == len(version_files(story.run)) >= 3


def test_versions_are_numbered_without_a_gap(story):
    manifests = [json.loads(path.read_text()) for path in version_files(story.run)]
    assert [manifest["version"] for manifest in manifests] == list(range(len(manifests)))
    seen = [manifest["seen_images"] for manifest in manifests]
    assert seen == sorted(seen)
    for path, manifest in zip(version_files(story.run), manifests, strict=True):
        assert manifest["sha256"] in {sha256(file) for file in path.parent.glob("*.safetensors")}


def test_the_contact_sheet_is_a_picture(story):
    assert (story.run / "contact_sheet.png").read_bytes().startswith(PNG_SIGNATURE)


def test_the_job_prints_a_table_and_the_gain_at_its_end(story):
    for text in ("warm_up", "real_only_control", "self_improved", "of the real-only control: "):
        assert text in story.finished.output


def test_a_run_that_has_ended_says_so_and_shows_its_results(story):
    assert story.called_again.code == 0, story.called_again.output
    assert "this run has ended" in story.called_again.output
    assert "self_improved" in story.called_again.output
    assert "Ray:" not in story.called_again.output


def test_status_reads_the_run_without_models_or_a_cluster(story):
    code = (
        "import sys; from jobs.status import main; main([sys.argv[1]]); "
        "assert not {'ray', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(story.run)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "finished" in done.stdout
    assert "4 / 4" in done.stdout
