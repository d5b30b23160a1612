"""A generator that is killed between tar and manifest, and shards that are lost afterwards."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from sources.live_shards import LiveShardList
from tests.kit.faults.killed import in_a_process, manifest_of_a_unit, start_process, strike
from tests.kit.small_jobs import (
    begin_run,
    collect_garbage,
    expect_damage,
    expect_verified,
    generate_again,
    let_a_day_go_by,
    retry_units,
)
from tests.kit.small_run import all_rows
from tests.kit.wholeness import expect_whole

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(90)]


def tars(root: str) -> set[Path]:
    return set(Path(root, "shards").rglob("*.tar"))


@pytest.mark.smoke
def test_killed_between_tar_and_manifest_the_same_command_goes_on_and_gc_takes_the_orphan(
    tmp_path, capsys
):
    config, store, plan = begin_run(tmp_path)

    def die_at_the_third_commit():
        strike(signal.SIGKILL, before=manifest_of_a_unit, after=2)
        generate_again(store)

    assert in_a_process(die_at_the_third_commit) == -signal.SIGKILL
    orphan = tars(store.root) - {Path(store.root, row.tar_uri) for row in all_rows(config)}
    assert len(tars(store.root)) == 3
    assert len(orphan) == 1, "its tar was written, its manifest was not"
    generate_again(store)
    expect_whole(store.url, plan)
    # A day later the orphan goes, and nothing else does.
    let_a_day_go_by(store.root)
    whole = tars(store.root) - orphan
    capsys.readouterr()
    collect_garbage(store, "--dry-run")
    assert str(*orphan).removeprefix(f"{store.root}/") in capsys.readouterr().out
    assert tars(store.root) == whole | orphan
    collect_garbage(store, "--delete")
    assert tars(store.root) == whole
    expect_verified(store)
    expect_whole(store.url, plan)


def test_a_unit_in_the_making_is_nothing_to_gc_however_long_it_takes(tmp_path):
    _, store, plan = begin_run(tmp_path)

    def stop_at_the_first_commit():
        strike(signal.SIGSTOP, before=manifest_of_a_unit)
        generate_again(store)

    maker = start_process(stop_at_the_first_commit)
    try:
        assert os.WIFSTOPPED(os.waitpid(maker, os.WUNTRACED)[1])
        (written,) = tars(store.root)
        # It hung for most of what gc allows.
        os.utime(written, (time.time() - 0.9 * 24 * 3600,) * 2)
        collect_garbage(store, "--delete", "--older-than", "24h")
        assert tars(store.root) == {written}
    finally:
        os.kill(maker, signal.SIGCONT)
        status = os.waitpid(maker, 0)[1]
    assert status == 0
    expect_whole(store.url, plan)
    expect_verified(store)


DAMAGES = {
    "lost": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-3000]),
    "one bit changed": lambda path: path.write_bytes(
        path.read_bytes()[:700] + bytes([path.read_bytes()[700] ^ 1]) + path.read_bytes()[701:]
    ),
}


def test_a_shard_that_is_lost_or_altered_after_its_commit_is_named_and_made_again(tmp_path, capsys):
    config, store, plan = begin_run(tmp_path)
    generate_again(store)
    live = LiveShardList(store, poll_s=0)
    live.refresh()
    by_uri = {row.tar_uri: row.unit_id for row in all_rows(config)}
    for damage, (uri, unit_id) in zip(DAMAGES.values(), by_uri.items(), strict=True):
        damage(Path(store.root, uri))
        expect_damage(store, capsys, uri, f"jobs/retry.py RUN --units {unit_id}")
        retry_units(store, "--units", unit_id)
    expect_verified(store)
    rows = expect_whole(store.url, plan)
    assert {row["revision"] for row in rows} == {1}
    # A trainer that had the old list in hand finds the new shards under the same images.
    live.refresh()
    assert {shard.uri for shard in live.shards} == {row["tar_uri"] for row in rows}
