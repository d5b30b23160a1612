"""How jobs end: 0 done, 1 failed, 2 for the user to change, 130 interrupted."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest

from jobs import (
    ablate,
    compact,
    evaluate,
    export,
    gc,
    generate,
    new_run,
    predict,
    prepare,
    retry,
    sample,
    self_improve,
    status,
    steer,
    summarise,
    train,
    verify,
    watch_spot,
)
from pipeline.make.attempt import Attempt
from pipeline.make.commit import commit_failed_unit
from pipeline.make.isolate import Failure
from runs.command_line import FAILURES, run_job
from schemas.errors import ConfigError, FencedError, RunFailedError, SourceError
from schemas.run_layout import CONFIG_FILE
from storage.files.stores import RunStore
from tests.kit.faults.killed import ended, in_a_process, manifest_of_a_unit, start_process, strike
from tests.kit.small_jobs import begin_run, generate_again, let_a_day_go_by
from tests.kit.small_run import write_source
from trainers.train_stage import StageStoppedError

JOBS = {
    "ablate": ablate,
    "compact": compact,
    "evaluate": evaluate,
    "export": export,
    "gc": gc,
    "generate": generate,
    "new_run": new_run,
    "predict": predict,
    "prepare": prepare,
    "retry": retry,
    "sample": sample,
    "self_improve": self_improve,
    "status": status,
    "steer": steer,
    "summarise": summarise,
    "train": train,
    "verify": verify,
    "watch_spot": watch_spot,
}


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a job in this process as its command line does; its exit code and last words."""

    def run_one(job: str, *arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [f"{job}.py", *map(str, arguments)])
        code = 0
        try:
            run_job(JOBS[job].main)
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return code, said

    return run_one


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (SourceError("x"), 2),
        (RunFailedError("x"), 1),
        (FencedError("x"), 1),
        (StageStoppedError("x"), 1),
        *((kind("x"), 1) for kind in FAILURES),
        (KeyboardInterrupt(), 130),
    ],
    ids=repr,
)
def test_every_kind_of_end_has_its_code_and_one_line(error, code, monkeypatch, capsys):
    def main(_: object) -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["job.py"])
    with pytest.raises(SystemExit) as end:
        run_job(main)
    assert end.value.code == code
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("job", sorted(JOBS))
def test_an_option_that_no_job_has_is_the_users_to_change(job, run):
    code, said = run(job, "--no-such-option", "x")
    assert code == 2
    assert "usage: " in said


NOT_THERE = {
    "ablate": ("--config", "gone.yaml", "--out", "out"),
    "compact": ("gone",),
    "evaluate": ("--config", "gone.yaml"),
    "export": ("--run", "gone", "--out", "out"),
    "gc": ("gone",),
    "generate": ("--config", "gone.yaml"),
    "new_run": ("gone",),
    "predict": ("--run", "gone", "a.png", "--out", "out"),
    "prepare": ("nyu_bts", "--root", "gone", "--out", "out"),
    "retry": ("gone",),
    "sample": ("--run", "gone", "--prompt", "a room", "--out", "out"),
    "self_improve": ("--config", "gone.yaml"),
    "status": ("gone",),
    "steer": ("gone", "--pause"),
    "summarise": ("gone",),
    "train": ("--config", "gone.yaml", "--stage", "warm_up"),
    "verify": ("gone",),
}


@pytest.mark.parametrize("job", sorted(NOT_THERE))
def test_what_is_not_there_is_the_users_to_change(job, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = run(job, *NOT_THERE[job])
    assert code == 2, said
    assert not list(tmp_path.iterdir()), "nothing is written for a typing error"


@pytest.mark.slow
def test_jobs_that_tidy_end_with_0_on_a_whole_run_and_with_1_on_what_is_wrong(
    tmp_path, run, monkeypatch
):
    config, store, _ = begin_run(tmp_path)
    generate_again(store)
    for job in ("verify", "gc", "compact", "retry", "status"):
        assert run(job, store.url)[0] == 0, job
    assert run("steer", store.url, "--resume")[0] == 0
    # Damage is a failure.
    tar = next(Path(store.root, "shards").rglob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-5])
    code, said = run("verify", store.url)
    assert (code, "problem" in said) == (1, True)
    # So is a store that does not let go of garbage.
    orphan = "shards/r=0000/w=00000000/0123456789abcdef.a1.tar"
    store.write_bytes(orphan, b"orphan")
    let_a_day_go_by(store.root)
    with monkeypatch.context() as changed:
        changed.setattr(RunStore, "remove_file", _refuse)
        code, said = run("gc", store.url, "--delete")
    assert (code, "read-only" in said) == (1, True)
    # And a wrong choice is the user's.
    assert run("gc", store.url, "--delete", "--older-than", "5m")[0] == 2
    assert run("gc", store.url, "--delete", "--dry-run")[0] == 2
    assert run("retry", store.url, "--units", "0" * 16)[0] == 2
    assert run("retry", store.url, "--weights", "9", "--units", _a_unit(config))[0] == 2
    assert run("steer", store.url, "--generators", "0")[0] == 2


def _refuse(store: RunStore, rel: str) -> None:
    raise OSError(30, f"read-only: {rel}")


def _a_unit(config) -> str:
    return generate.plan_of(config)[0].unit_id


@pytest.mark.slow
def test_a_generation_that_mostly_fails_ends_with_1_and_names_the_most_frequent_reasons(
    tmp_path, run
):
    write_source(tmp_path / "source", with_broken_image=True)
    _, store, _ = begin_run(
        tmp_path, generation={"max_failed_fraction": 0.1, "failure_window_units": 2}
    )
    code, said = run("generate", "--config", f"{store.root}/{CONFIG_FILE}", "--local")
    assert code == 1
    assert re.search(r"failed: .* samples .* failed.*decode_failed \(1\)", said), said
    # The same command goes on, and is not stopped by what failed before.
    assert run("generate", "--config", f"{store.root}/{CONFIG_FILE}", "--local")[0] in {0, 1}


@pytest.mark.slow
def test_a_retry_after_which_samples_still_fail_ends_with_1(tmp_path, run):
    write_source(tmp_path / "source", with_broken_image=True)
    config, store, plan = begin_run(tmp_path)
    commit_failed_unit(
        store, config, plan[0], failure=Failure("killed", "x"), attempt=Attempt("a1-failed")
    )
    generate_again(store)
    assert run("retry", store.url, "--local", "--reasons", "killed")[0] == 0
    code, said = run("retry", store.url, "--local")
    assert (code, "1 sample failed again: decode_failed (1)" in said) == (1, True)


@pytest.mark.slow
def test_without_whole_weights_generation_ends_with_1(tmp_path, run):
    _, store, _ = begin_run(tmp_path)
    store.write_bytes("weights/v00000000/model.safetensors", b"torn")
    code, said = run("generate", "--config", f"{store.root}/{CONFIG_FILE}", "--local")
    assert (code, "v00000000" in said) == (1, True)


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_a_kill_with_the_signal(tmp_path, monkeypatch):
    _, store, _ = begin_run(tmp_path)
    arguments = ["generate.py", "--config", f"{store.root}/{CONFIG_FILE}", "--local"]
    monkeypatch.setattr(sys, "argv", arguments)

    def work(sent: signal.Signals) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        strike(sent, before=manifest_of_a_unit)
        run_job(generate.main)

    assert ended(start_process(lambda: work(signal.SIGINT))) == 130
    assert in_a_process(lambda: work(signal.SIGKILL)) == -signal.SIGKILL
    assert in_a_process(lambda: run_job(generate.main)) == 0
