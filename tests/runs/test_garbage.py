"""What may go and what must stay, decided from what lies in a run."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from runs.garbage import Limits, RunContent, find_garbage, limits_of
from schemas.run_layout import partial_path, suspects_path, weights_dir, working_on_path
from schemas.weights import SERIES
from storage.files.inventory import StoredFile
from storage.files.stores import open_store
from tests.kit.committed_units import commit, image_unit, relabel_unit
from tests.kit.small_run import make_config

NOW = datetime(2026, 1, 10, tzinfo=UTC)
OLD, YOUNG = NOW - timedelta(hours=48), NOW - timedelta(hours=1)
LIMITS = Limits(before=NOW - timedelta(hours=24), last_round=2)
UNIT = image_unit("a")


def file(path: str, time: datetime | None = OLD) -> StoredFile:
    return StoredFile(path, 10, time)


def content(commits=(), files=(), *, at=OLD, **options) -> RunContent:
    return RunContent(
        files=files,
        commits=commits,
        committed_at={each.unit.unit_id: at for each in commits},
        **options,
    )


def found(run: RunContent, limits: Limits = LIMITS, kind: str = "") -> list[str]:
    removals = find_garbage(run, limits)
    return [path for each in removals if kind in {"", each.kind} for path in each.paths]


@pytest.fixture
def rounds(tmp_path):
    """The same images labelled in rounds 0, 1 and 2."""
    store = open_store(str(tmp_path))
    return [
        commit(store, UNIT, version=0),
        commit(store, relabel_unit(UNIT, round_index=1), version=3),
        commit(store, relabel_unit(UNIT, round_index=2), version=5),
    ]


def tar_of(made) -> str:
    return made.rows[0].tar_uri


def test_labels_that_newer_ones_replaced_go(rounds):
    assert set(found(content(rounds))) == {tar_of(rounds[0]), tar_of(rounds[1])}


def test_labels_replaced_a_moment_ago_stay(rounds):
    assert found(content(rounds, at=YOUNG)) == []
    assert found(content(rounds, at=None)) == [], "of unknown age"


def test_the_images_stay_until_the_last_round_has_labelled_them(rounds):
    assert found(content(rounds[:2])) == []
    assert found(content(rounds[:2]), replace(LIMITS, last_round=1)) == [tar_of(rounds[0])]


def test_labels_that_are_newer_by_version_stay_whatever_their_round(rounds):
    retried = replace(rounds[0], rows=[replace(row, creation_version=9) for row in rounds[0].rows])
    gone = found(content([retried, *rounds[1:]]))
    assert set(gone) == {tar_of(rounds[1]), tar_of(rounds[2])}


def test_rounds_that_are_asked_for_stay(rounds, tmp_path):
    limits = replace(LIMITS, keep_rounds=frozenset({0, 1}))
    assert found(content(rounds), limits) == []
    config = make_config(tmp_path, plan={"rounds": 3}, training={"synthetic_round": 1})
    assert limits_of(config, before=NOW).keep_rounds == {1}
    assert limits_of(config, before=NOW).last_round == 2


def test_a_newer_round_without_a_good_sample_replaces_nothing(rounds):
    empty = replace(
        rounds[2], rows=[replace(r, status="failed", tar_uri="") for r in rounds[2].rows]
    )
    assert found(content([rounds[0], rounds[1], empty])) == [tar_of(rounds[0])]


def test_tars_that_no_manifest_names_go_when_they_are_old(rounds):
    files = [
        file(tar_of(rounds[2])),
        file("shards/r=0000/w=00000000/none.a1.tar"),
        file("shards/r=0000/w=00000000/young.a1.tar", YOUNG),
        file("shards/r=0000/w=00000000/unknown.a1.tar", None),
        file("shards/r=0000/w=00000000/notes.txt"),
        file("somewhere/none.a1.tar"),
    ]
    assert found(content(rounds, files), kind="orphan_tar") == [files[1].path]


def test_no_tar_is_called_unnamed_while_a_manifest_cannot_be_read():
    files = [file("shards/r=0000/w=00000000/none.a1.tar")]
    assert found(content((), files, has_torn=True)) == []


def test_the_tar_that_a_retry_replaced_stays_as_long_as_a_reader_may_hold_it(rounds):
    files = [file(f"shards/r=0000/w=00000000/{UNIT.unit_id}.before.tar")]
    assert found(content(rounds, files, at=YOUNG)) == []
    assert files[0].path in found(content(rounds, files))


def weights(
    version: int,
    time: datetime = OLD,
    *,
    names=("manifest.json", "model.safetensors"),
    series="creation",
):
    return [file(f"{weights_dir(version, series)}/{name}", time) for name in names]


def test_weights_go_but_for_the_first_the_newest_and_the_newest_that_a_row_names(rounds):
    files = [each for version in range(12) for each in weights(version)]
    gone = found(content(rounds, files), kind="old_weights")
    assert {path.split("/")[1] for path in gone} == {
        f"v{version:08d}" for version in (1, 2, 3, 4, 6, 7, 8)
    }
    assert gone[0].endswith("manifest.json"), "the manifest first, then the version is not there"


def test_every_version_of_the_creator_that_made_an_image_that_is_there_stays(rounds):
    """Also those of older rounds: what made an image stays its origin."""
    made = [
        replace(each, rows=[replace(row, creator_version=version) for row in each.rows])
        for each, version in zip(rounds, (2, 4, 4), strict=True)
    ]
    gone_images = [replace(row, creator_version=6, status="collected") for row in rounds[0].rows]
    made.append(replace(rounds[0], rows=gone_images))
    files = [each for v in range(12) for s in SERIES for each in weights(v, series=s)]
    gone = set(found(content(made, files), kind="old_weights"))
    versions = {
        series: sorted(v for v in range(12) if weights(v, series=series)[0].path in gone)
        for series in SERIES
    }
    assert versions == {"creation": [1, 2, 3, 4, 6, 7, 8], "creator": [1, 3, 5, 6, 7, 8]}


def test_the_newest_version_of_each_series_stays_for_units_to_come():
    files = [*weights(1), *weights(2), *weights(1, series="creator")]
    gone = found(content((), files), replace(LIMITS, keep_versions=0))
    assert {path.split("/")[0] for path in gone} == {"weights"}


@pytest.mark.parametrize("series", SERIES)
def test_weights_that_were_the_newest_a_moment_ago_stay(series):
    young = [each for version in (3, 4, 5) for each in weights(version, YOUNG, series=series)]
    files = [*weights(1, series=series), *weights(2, series=series), *young]
    gone = found(content((), files), replace(LIMITS, keep_versions=1))
    assert {path.split("/")[1] for path in gone} == {"v00000001"}


def test_weights_that_may_still_be_committed_stay():
    files = [*weights(1), *weights(2, names=("model.safetensors",))]
    assert found(content((), files)) == []
    gone = found(content((), [*files, *weights(3)]), replace(LIMITS, keep_versions=2))
    assert gone == ["weights/v00000002/model.safetensors"], "a later version is committed"


def test_the_newest_weights_stay_whatever_is_asked():
    files = [*weights(1), *weights(2)]
    gone = found(content((), files), replace(LIMITS, keep_versions=0))
    assert {path.split("/")[1] for path in gone} == {"v00000001"}


def test_old_checkpoints_go_but_for_the_newest_and_the_end():
    steps = [f"checkpoints/warm_up/local/{step:08d}" for step in (10, 20, 30, 40)]
    files = [
        file(f"{step}/{name}") for step in steps for name in ("creation.safetensors", "state.json")
    ]
    files += [file("checkpoints/warm_up/final/final.json")]
    files += [file("checkpoints/warm_up/local/00000050/creation.safetensors")]
    gone = found(content((), files))
    assert gone == [
        f"{step}/{name}" for step in steps[:2] for name in ("state.json", "creation.safetensors")
    ]


def test_checkpoints_that_the_trainers_record_names_stay():
    names = [f"checkpoint_2026-01-0{day}" for day in range(1, 5)]
    files = [file(f"checkpoints/self_improve/{name}/state.json") for name in names]
    run = content((), files, pinned_names=frozenset({names[0]}))
    assert found(run) == [f"checkpoints/self_improve/{names[1]}/state.json"]


def test_manifests_go_when_the_file_that_replaces_them_is_old():
    replaced = [
        ("manifest/units/r=0000/a.parquet", OLD),
        ("manifest/units/r=0000/b.parquet", YOUNG),
    ]
    assert found(content((), replaced_manifests=replaced)) == [replaced[0][0]]


def test_what_killed_writers_left_goes():
    files = [file("manifest/units/r=0000/.x.tmp"), file(".y.tmp", YOUNG), file("results.json")]
    assert found(content((), files)) == [files[0].path]


def test_aids_of_a_unit_go_once_it_is_committed_and_they_are_old(rounds):
    unit_id = UNIT.unit_id
    aids = [
        file(partial_path(unit_id, "a1")),
        file(suspects_path(unit_id)),
        file(working_on_path(unit_id, "a1")),
    ]
    others = [file(partial_path("0" * 16, "a1")), file(partial_path(unit_id, "a2"), YOUNG)]
    run = content(rounds[:1], [*aids, *others])
    assert found(run, kind="leftover") == [aid.path for aid in aids]
