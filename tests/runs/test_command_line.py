"""What all jobs share."""

from __future__ import annotations

import subprocess
import sys

import pytest

SAYS = """
from rich.console import Console
from runs.command_line import run_job

def main(arguments):
    print("küche 部屋 \\udce9")
    Console().print("─ 0.3° ±")

run_job(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_output_never_dies_of_the_encoding_of_a_terminal(encoding):
    done = subprocess.run(
        [sys.executable, "-c", SAYS],
        env={"PYTHONIOENCODING": encoding, "PYTHONPATH": "."},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "0.3" in done.stdout.decode(encoding)
    assert "\\udce9" in done.stdout.decode(encoding)
