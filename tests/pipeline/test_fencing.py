"""Attempts say for which driver they were made; a fenced driver commits nothing itself."""

from __future__ import annotations

import pytest

from pipeline.loop.local_runner import run_units
from pipeline.make.attempt import new_attempt
from pipeline.make.isolate import Failure
from schemas.errors import FencedError
from storage.files.stores import open_store
from storage.records.run_lock import take_run
from tests.kit.small_run import (
    all_commits,
    make_config,
    make_control,
    make_generator,
    prepare,
)

ROLES = ("generate",)


def test_an_attempt_carries_the_epoch_of_its_driver_and_shows_it_in_its_name():
    attempts = [new_attempt(3, epoch=epoch) for epoch in (0, 7, 12345)]
    assert [attempt.epoch for attempt in attempts] == [0, 7, 12345]
    assert [attempt.name.partition("a03-")[0] for attempt in attempts] == ["", "e7-", "e12345-"]


@pytest.mark.slow
def test_a_unit_tells_of_which_driver_it_is(tmp_path):
    config = make_config(tmp_path)
    store = prepare(config)
    take_run(store, job="earlier", roles=ROLES)
    lock = take_run(store, job="generate", roles=ROLES)
    run_units(make_control(config, lock=lock), make_generator(config), store)
    commits = all_commits(config)
    assert {commit.summary["epoch"] for commit in commits} == {lock.epoch} == {2}
    tars = {row.tar_uri for commit in commits for row in commit.rows}
    assert all(".e2-a" in tar for tar in tars)


def test_a_fenced_driver_does_not_give_up_units_that_are_no_longer_its_own(tmp_path):
    config = make_config(tmp_path, generation={"max_attempts": 1})
    store = prepare(config)
    control = make_control(config, lock=take_run(store, job="elder", roles=ROLES))
    control.refresh()
    unit = control.decide().unit
    attempt = control.lease(unit)
    take_run(store, job="younger", roles=ROLES)
    with pytest.raises(FencedError):
        control.settle(unit, attempt, Failure("poison", "dies each time"))
    assert all_commits(config) == []
    assert open_store(config.run.url).list_dir("manifest/units") == []
