"""A trainer that is killed, and whose newest checkpoint a disk has lost in part."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from storage.files.stores import open_store
from storage.records.weights import read_weights
from tests.kit.faults.killed import in_a_process, strike
from tests.kit.small_stage import make_config
from tests.kit.wholeness import expect_whole
from trainers.checkpoint import CHECKPOINT_FILES
from trainers.train_stage import train_stage_locally

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(90)]


def the_end(method: str, rel: str) -> bool:
    """Whether a change is the first one after the last step."""
    return "/final/" in rel


@pytest.mark.parametrize("file", CHECKPOINT_FILES)
def test_the_stage_goes_on_from_the_checkpoint_before_and_ends_the_same(tmp_path, file, caplog):
    for name in ("whole", "torn"):
        (tmp_path / name).mkdir()
    whole, torn = make_config(tmp_path / "whole"), make_config(tmp_path / "torn")
    train_stage_locally(whole, "warm_up")

    def die_before_the_end() -> None:
        strike(signal.SIGKILL, before=the_end)
        train_stage_locally(torn, "warm_up")

    assert in_a_process(die_before_the_end) == -signal.SIGKILL
    root = Path(torn.run.url, "checkpoints/warm_up/local")
    assert sorted(path.name for path in root.iterdir()) == ["00000002", "00000004"]
    path = root / "00000004" / file
    path.write_bytes(path.read_bytes()[:-40])
    content = train_stage_locally(torn, "warm_up")
    assert content["started_at_step"] == 2
    assert "checkpoint_is_passed_over" in caplog.text
    weights = [read_weights(open_store(config.run.url), 0)[1] for config in (whole, torn)]
    assert weights[0] == weights[1]
    final = json.loads(Path(torn.run.url, "checkpoints/warm_up/final/final.json").read_text())
    assert final["step"] == 4
    expect_whole(torn.run.url, [])
