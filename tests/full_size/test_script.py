"""The full-size benchmark, on tiny models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.tiny_models import IMAGE_SIZE_PX, tiny_captioner_folder, tiny_diffusion_folder

SCRIPT = Path(__file__).parents[2] / "benchmarks/full_size.py"


@pytest.mark.slow
def test_every_part_is_measured():
    folders = ["--diffusion", str(tiny_diffusion_folder())]
    folders += ["--captioner", str(tiny_captioner_folder())]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *folders, "--side", str(IMAGE_SIZE_PX), "--repeats", "1"],
        capture_output=True,
        text=True,
        check=True,
    )
    for part in ("load backbone", "synthesis, 2 steps", "label", "training step", "caption"):
        line = next(line for line in done.stdout.splitlines() if line.startswith(f"{part}:"))
        assert "peak" in line
    assert "matrix product" in done.stdout
