"""Every hostile input has a stated outcome: it is read right, becomes a row, or is refused."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from runs.command_line import run_job
from schemas.errors import SampleError
from schemas.sample import UnreadableSample
from tests.kit.hostile.corpus_configs import CONFIGS, ConfigItem
from tests.kit.hostile.corpus_folders import FOLDERS
from tests.kit.hostile.corpus_images import IMAGES, LABELS
from tests.kit.hostile.corpus_models import CAPTION_FILES, MODELS
from tests.kit.hostile.corpus_runs import CAPTIONS, UNITS, WEIGHTS
from tests.kit.hostile.corpus_state import STATE
from tests.kit.hostile.corpus_tars import LIVE, SHARD_MANIFESTS, TARS
from tests.kit.hostile.outcomes import (
    CANARY,
    PICKLE,
    SECONDS,
    Accepted,
    Item,
    Refused,
    Row,
    bounded,
)

ROOT = Path(__file__).parents[2]
ROOMS = str(ROOT / "configs/rooms_demo.yaml")
CORPUS = [
    *IMAGES,
    *LABELS,
    *FOLDERS,
    *TARS,
    *LIVE,
    *SHARD_MANIFESTS,
    *WEIGHTS,
    *UNITS,
    *CAPTIONS,
    *CAPTION_FILES,
    *STATE,
]
SLOW = [pytest.param(item, marks=pytest.mark.slow) for item in MODELS]


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A file that appears if a pickle of the corpus is ever loaded."""
    path = tmp_path / "canary"
    monkeypatch.setenv(CANARY, str(path))
    yield path
    assert not path.exists(), "something unpickled what it read"


def outcome_of(item: Item, folder: Path) -> Any:
    """What is returned, or the error that is raised, within bounded memory and time."""
    refusal = (item.outcome.error,) if isinstance(item.outcome, Refused) else ()
    expected = (SampleError, *refusal)
    started_s = time.process_time()
    with bounded():
        try:
            found = item.read(folder)
        except expected as error:
            found = error
    assert time.process_time() - started_s < SECONDS
    return found


@pytest.mark.parametrize("item", [*CORPUS, *SLOW], ids=lambda item: item.name)
def test_hostile_input_has_its_outcome(item: Item, tmp_path, canary):
    folder = tmp_path / "input"
    folder.mkdir()
    found = outcome_of(item, folder)
    match item.outcome:
        case Accepted(check):
            assert check(found), found
        case Row(reason, detail):
            assert isinstance(found, SampleError | UnreadableSample), found
            assert (found.reason, detail in found.detail) == (reason, True), found
            assert len(found.detail) < 2000
        case Refused(error, message):
            assert isinstance(found, error), found
            assert re.search(message, str(found), re.DOTALL), found
            assert len(str(found)) < 20_000


def run(main: Any, arguments: list[str], monkeypatch, capsys) -> tuple[int, str]:
    """A job's exit code and what it says, as its command line has it."""
    monkeypatch.setattr(sys, "argv", ["job.py", *arguments])
    with bounded(), pytest.raises(SystemExit) as ended:
        run_job(main)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return ended.value.code, said


@pytest.mark.parametrize("item", CONFIGS, ids=lambda item: item.name[:60])
def test_a_hostile_configuration_ends_the_job_with_one_message(
    item: ConfigItem, tmp_path, canary, monkeypatch, capsys
):
    from jobs.self_improve import main

    monkeypatch.chdir(ROOT)
    path = ROOMS
    if item.content is not None:
        path = str(tmp_path / "config.yaml")
        Path(path).write_bytes(item.content)
    changes = ["--set", f"run.url={tmp_path / 'run'}"]
    changes += ["--set", item.change] if item.change else []
    code, said = run(main, ["--config", path, *changes, "--dry-run"], monkeypatch, capsys)
    assert code == 2, said
    assert re.search(item.message, said), said
    assert said.startswith("error: ")
    assert len(said) < 20_000
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "item",
    [item for item in (*WEIGHTS, *UNITS, *CAPTIONS) if isinstance(item.outcome, Refused)],
    ids=lambda item: item.name,
)
def test_a_damaged_run_directory_ends_the_job_without_a_traceback(
    item: Item, tmp_path, canary, monkeypatch, capsys
):
    code, said = run(lambda _: item.read(tmp_path), [], monkeypatch, capsys)
    assert code == 1, said
    assert said.startswith("failed: ")


def test_the_canary_sings_when_a_pickle_is_loaded(tmp_path, monkeypatch):
    import pickle  # noqa: TID251

    path = tmp_path / "canary"
    monkeypatch.setenv(CANARY, str(path))
    pickle.loads(PICKLE)
    assert path.exists()
