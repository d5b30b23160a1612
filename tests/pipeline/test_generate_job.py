"""jobs/generate.py in one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.generate import main
from pipeline.make.creators import create_images
from runs.directory import claim_run_directory
from runs.generation import plan_of
from schemas.config_file import dump_config
from schemas.errors import ConfigError
from storage.files.stores import open_store
from storage.records.captions import read_captions
from tests.kit.small_run import all_commits, all_rows, make_config, publish


@pytest.fixture
def config(tmp_path):
    return make_config(tmp_path, plan={"rounds": 2})


@pytest.fixture
def command(config, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(dump_config(config))
    return ["--config", str(file)]


def test_a_dry_run_prints_the_plan_and_writes_nothing(config, command, capsys):
    main([*command, "--dry-run"])
    printed = capsys.readouterr().out
    assert "round 0: 4 synthesize units, 8 samples" in printed
    assert "round 1: 4 relabel units, 8 samples" in printed
    assert not Path(config.run.url).exists()


def test_without_weights_the_message_says_how_to_get_them(command):
    with pytest.raises(ConfigError, match="--stage warm_up"):
        main([*command, "--local"])


def test_a_version_that_does_not_exist_is_named_with_those_that_do(config, command):
    publish(config, 0)
    with pytest.raises(ConfigError, match=r"--weights 7.*\[0\]"):
        main([*command, "--local", "--weights", "7"])


@pytest.mark.slow
def test_it_captions_and_makes_what_the_weights_allow_and_nothing_twice(config, command, capsys):
    publish(config, 0)
    main([*command, "--local"])
    assert len(read_captions(open_store(config.run.url))) == 8
    assert {row.creation_version for row in all_rows(config)} == {0}
    attempts = {c.unit.unit_id: c.attempt for c in all_commits(config)}
    assert len(attempts) == 4
    publish(config, 1, seen_images=24)
    main([*command, "--local"])
    again = {c.unit.unit_id: c.attempt for c in all_commits(config)}
    assert len(again) == 8
    assert attempts.items() <= again.items()
    capsys.readouterr()
    main([*command, "--dry-run"])
    assert "generator seconds left" in capsys.readouterr().out


@pytest.mark.slow
def test_a_pinned_version_labels_everything(config, command):
    publish(config, 0)
    publish(config, 1, seen_images=24)
    main([*command, "--local", "--weights", "0", "--rounds", "1"])
    assert {(row.round, row.creation_version) for row in all_rows(config)} == {(0, 0)}


class KilledForMemoryError(BaseException):
    """The end of a process that took more memory than its machine has."""


@pytest.mark.slow
def test_a_run_that_was_killed_for_memory_goes_on_with_half_the_batch_elsewhere(
    tmp_path, monkeypatch
):
    config = make_config(tmp_path, plan={"unit_size": 4})
    publish(config, 0)
    (tmp_path / "run.yaml").write_text(dump_config(config))
    command = ["--config", str(tmp_path / "run.yaml"), "--local"]
    fit = [4, 2, 2]

    def create(backbone, orders, **options):
        if len(orders) > fit.pop(0):
            raise KilledForMemoryError
        return create_images(backbone, orders, **options)

    monkeypatch.setattr("pipeline.make.images.create_images", create)
    with pytest.raises(KilledForMemoryError):
        main(command)
    (first,) = all_commits(config)
    fit = [2, 2]
    changes = ("creator.batch_size=2", "model.device=cpu:0", "generation.num_generators=2")
    main([*command, *(part for change in changes for part in ("--set", change))])
    assert fit == []
    commits = {commit.unit.unit_id: commit.attempt for commit in all_commits(config)}
    assert commits.keys() == {unit.unit_id for unit in plan_of(config)}
    assert commits[first.unit.unit_id] == first.attempt
    assert {row.status for row in all_rows(config)} == {"ok"}


def test_a_run_is_not_continued_with_another_creator(config, command):
    publish(config, 0)
    claim_run_directory(open_store(config.run.url), config)
    with pytest.raises(ConfigError, match=r"creator\.t_start: there 600, now 500"):
        main([*command, "--local", "--set", "creator.t_start=500"])
