"""The real jobs on a complete small run, in this process."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from jobs import compact, gc, generate, retry, status, verify
from runs.directory import claim_run_directory
from runs.generation import plan_of
from schemas.config import RunConfig
from schemas.errors import RunFailedError
from schemas.run_layout import CONFIG_FILE
from schemas.unit import Unit
from storage.files.stores import RunStore
from tests.kit import small_run


def begin_run(tmp_path: Path, **changes: Any) -> tuple[RunConfig, RunStore, tuple[Unit, ...]]:
    """A run of four units with captions and version 0; nothing is generated yet."""
    config = small_run.make_config(tmp_path, **changes)
    store = small_run.prepare(config)
    claim_run_directory(store, config)
    return config, store, plan_of(config)


def generate_again(store: RunStore) -> None:
    """The command that makes a run's units, as a user gives it again after anything."""
    generate.main(["--config", f"{store.root}/{CONFIG_FILE}", "--local"])


def retry_units(store: RunStore, *options: str) -> None:
    retry.main([store.url, "--local", *options])


def collect_garbage(store: RunStore, *options: str) -> None:
    gc.main([store.url, "--list", *options])


def compact_manifests(store: RunStore) -> None:
    compact.main([store.url, "--all"])


def expect_verified(store: RunStore) -> None:
    verify.main([store.url])


def expect_damage(store: RunStore, capsys: pytest.CaptureFixture[str], *named: str) -> None:
    """jobs/verify.py fails, and names these."""
    capsys.readouterr()
    with pytest.raises(RunFailedError):
        verify.main([store.url])
    printed = capsys.readouterr().out
    assert all(name in printed for name in named), printed


def status_of(store: RunStore, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What jobs/status.py says to programs."""
    capsys.readouterr()
    status.main([store.url, "--json"])
    return json.loads(capsys.readouterr().out)


def let_a_day_go_by(root: str, hours: float = 25.0) -> None:
    """Make all that lies in a folder older."""
    for path in Path(root).rglob("*"):
        os.utime(path, (time.time() - hours * 3600,) * 2)
