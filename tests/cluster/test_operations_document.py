"""The operations document names only what exists, and every state and exit code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from runs.command_line import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER
from runs.state import StateName

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "operations.md").read_text()
COMMANDS = sorted(set(re.findall(r"(?:python )?(jobs/\w+\.py)([^`\n]*)", TEXT)))


def flags(text: str) -> set[str]:
    return set(re.findall(r"(?<!\S)(--[a-z][a-z-]*)", text)) - {"--help"}


@pytest.mark.parametrize("file", ["jobs/steer.py", "jobs/status.py", "jobs/watch_spot.py"])
def test_jobs_of_the_document_say_how_they_are_used(file):
    done = subprocess.run(
        [sys.executable, "-m", file.removesuffix(".py").replace("/", "."), "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for named, rest in COMMANDS:
        if named == file:
            assert all(flag in done.stdout for flag in flags(rest))


def test_options_outside_of_commands_belong_to_a_job():
    sources = "".join(path.read_text() for path in (ROOT / "jobs").glob("*.py"))
    ours = {flag for flag in flags(TEXT.replace("`", " ")) if f'"{flag}"' in sources}
    rays = {"--generate", "--head", "--address", "--working-dir", "--no-wait", "--runtime-env-json"}
    assert flags(TEXT.replace("`", " ")) <= ours | rays


def test_every_state_has_a_row_with_a_command():
    table = TEXT.partition("## States")[2].partition("##")[0]
    rows = [row for row in table.splitlines() if row.startswith("| `")][1:]
    states = {re.match(r"\| `(\w+)`", row)[1] for row in rows}
    assert states == set(get_args(StateName))
    assert all(len(row.strip("|").split("|")) == 4 for row in rows)


def test_exit_codes_are_those_of_the_jobs():
    for code in (0, EXIT_FAILED, EXIT_USER, EXIT_INTERRUPTED):
        assert f"**{code}**" in TEXT


def test_files_that_are_named_exist():
    for name in re.findall(r"[\w/]+\.(?:yaml|json)\b", TEXT):
        if name not in {"results.json"}:
            assert any((ROOT / folder / name).is_file() for folder in ("", "docs")), name
