"""The jobs that tidy a run: nothing that is read changes, wherever they are stopped."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from jobs.compact import main as compact_main
from jobs.gc import main, parse_age, remove
from schemas.config import RunConfig
from schemas.errors import ConfigError
from sources.live_shards import LiveShardList
from storage.files.inventory import store_clock
from storage.files.stores import RunStore, open_store
from storage.manifests.table import read_unit
from storage.records.weights import list_versions
from tests.kit.committed_units import commit, image_unit, publish
from tests.kit.small_run import make_config
from tests.kit.untidy_run import ORPHAN, UNIT, fill, garbage, paths, reading, verified


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path) -> RunStore:
    kind = f"memory://{uuid.uuid4().hex}" if request.param == "memory" else str(tmp_path / "store")
    return open_store(kind)


@pytest.fixture
def config(tmp_path) -> RunConfig:
    return make_config(tmp_path, plan={"rounds": 2})


@pytest.fixture
def run(config) -> RunStore:
    return fill(open_store(config.run.url), config)


def test_it_only_says_what_could_go_unless_it_is_told_to_delete(run, capsys):
    before = paths(run)
    main([run.url, "--older-than", "0s", "--stopped", "--list"])
    printed = capsys.readouterr().out
    assert "nothing was removed" in printed
    assert ORPHAN in printed
    assert "superseded labels" in printed
    assert paths(run) == before


def test_what_is_in_use_is_not_asked_for_by_accident(run, capsys):
    with pytest.raises(ConfigError, match="at least 1h"):
        main([run.url, "--older-than", "30m", "--delete"])
    before = paths(run)
    main([run.url, "--older-than", "1h", "--delete"])
    assert paths(run) == before, "everything is younger"
    capsys.readouterr()


def test_garbage_goes_and_what_is_read_stays(store, config, capsys):
    fill(store, config)
    wanted = reading(store)
    remove(store, garbage(store, config))
    assert reading(store) == wanted
    assert ORPHAN not in paths(store)
    assert list_versions(store) == [0, 3, 4, 5]
    assert "weights/collected/v00000001.json" in paths(store)
    old = read_unit(store, 0, UNIT.unit_id)
    assert {row.status for row in old.rows} == {"collected", "filtered"}
    assert all(not row.tar_uri for row in old.rows)
    assert verified(store) == []
    assert [each.kind for each in garbage(store, config)] == [], "a second time finds nothing"


def test_old_versions_of_a_creator_go_but_for_those_that_made_what_is_there(store, config):
    fill(store, config)
    versions = [publish(store, version, series="creator") for version in range(7)]
    commit(store, image_unit("c"), version=0, creator=versions[2])
    remove(store, garbage(store, config))
    assert list_versions(store, series="creator") == [0, 2, 4, 5, 6]
    assert list_versions(store) == [0, 3, 4, 5]
    assert "creator/collected/v00000001.json" in paths(store)
    assert verified(store) == []
    assert garbage(store, config) == []


def test_a_reader_that_was_there_before_goes_on(run, config):
    live = LiveShardList(run, poll_s=0)
    live.refresh()
    before = live.shards
    remove(run, garbage(run, config))
    live.refresh()
    assert live.shards == before


@pytest.mark.slow
def test_killed_at_any_point_it_leaves_a_run_that_reads_as_before(run, config, monkeypatch):
    wanted, removed = reading(run), []

    class Killed(BaseException):
        pass

    def remove_one_then_die(store_, path):
        if removed:
            raise Killed
        removed.append(path)
        original(store_, path)

    original = RunStore.remove_file
    turns = 0
    while garbage(run, config):
        removed.clear()
        turns += 1
        found = garbage(run, config)
        try:
            with monkeypatch.context() as changed:
                changed.setattr(RunStore, "remove_file", remove_one_then_die)
                remove(run, found)
        except Killed:
            assert reading(run) == wanted
            assert verified(run) == []
    assert turns > 5
    assert reading(run) == wanted
    assert list_versions(run) == [0, 3, 4, 5]


def test_compacted_manifests_go_and_what_is_read_stays(run, config, capsys):
    wanted = reading(run)
    compact_main([run.url, "--all", "--dry-run"])
    assert "would put 3 units into 1 file" in capsys.readouterr().out
    compact_main([run.url, "--all"])
    assert "1 file written" in capsys.readouterr().out
    assert reading(run) == wanted
    remove(run, garbage(run, config))
    units = {path for path in paths(run) if path.startswith("manifest/units")}
    assert len(units) == 1, "the mark of the labels that went is newer than the compacted file"
    assert reading(run) == wanted
    compact_main([run.url, "--all"])
    remove(run, garbage(run, config))
    assert not {path for path in paths(run) if path.startswith("manifest/units")}
    assert reading(run) == wanted
    assert verified(run) == []
    capsys.readouterr()


def test_a_clock_that_is_ahead_does_not_make_things_old(run):
    now = store_clock(run)
    assert abs(now - datetime.now(UTC)) < timedelta(minutes=1)
    assert not {path for path in paths(run) if path.startswith(".clock")}


def test_ages_are_parsed():
    assert parse_age("24h") == timedelta(days=1)
    assert parse_age("7d") == timedelta(days=7)
    for text in ("24", "h", "-1h", "1.5h", ""):
        with pytest.raises(ConfigError, match="such as 24h"):
            parse_age(text)
