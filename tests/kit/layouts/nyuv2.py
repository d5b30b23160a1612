"""Where the real NYUv2 photographs are, for the tests that need them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_BESIDE_THE_REPOSITORY = Path(__file__).parents[4] / "shared" / "data" / "nyuv2"


def nyuv2_folder() -> Path:
    """The folder with rgb/, normal/, depth_mm/, semseg/ and train.txt; skips the test without."""
    given = os.environ.get("NYUV2_DIR")
    folder = Path(given) if given else _BESIDE_THE_REPOSITORY
    if not (folder / "train.txt").is_file():
        pytest.skip(
            "needs the NYUv2 photographs: set NYUV2_DIR to a folder with rgb/, normal/, depth_mm/, "
            "semseg/ and train.txt (see configs/nyuv2_folder.yaml)"
        )
    return folder
