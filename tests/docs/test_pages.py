"""The commands, Python and SQL of each page run in their order, as a reader types them."""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.kit.pages.blocks import PAGES, blocks_of
from tests.kit.pages.desk import can_be_alone, make_desk, run_blocks, unsaid
from tests.kit.pages.inputs import INPUTS, make_run

STARTS_RAY = re.compile(r"^(?:make demo|ray start|python jobs/self_improve(?!.*--dry-run))", re.M)

RUN_OF = {
    "data_format.md": "demo",
    "operations.md": "demo",
    "train-elsewhere.md": "mine",
    "using-a-run.md": "demo",
}
"""The run that a page reads; the others make theirs."""
ALSO_SAID = {
    "train-elsewhere.md": (
        "8 pairs of 8\n",
        "8 {'image': 'RGB', 'normals': 'RGB', 'depth': 'I;16', 'semseg': 'L'",
        "torch.float32, (4, 64, 64)",
    )
}
"""What a page's blocks have to print on the small runs, figures included."""


def param(page: Path):
    """A page to run; those that start Ray are in the tests with Ray."""
    texts = [block.text for block in blocks_of(page) if block.is_run]
    marks = [pytest.mark.slow, pytest.mark.timeout(1800)]
    if any(STARTS_RAY.search(text) for text in texts):
        marks.append(pytest.mark.ray)
    if any("ray start" in text for text in texts):
        reason = "Ray's usual ports and `ray stop` need a network and process ids of their own"
        marks.append(pytest.mark.skipif(not can_be_alone(), reason=reason))
    return pytest.param(page, marks=marks, id=page.stem)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Callable[[str], Path]:
    """Gives the folder of a run; makes it if it is the first to ask."""

    @functools.cache
    def made(name: str) -> Path:
        return make_run(name, make_desk(tmp_path_factory.mktemp(name)))

    return made


@pytest.mark.parametrize(
    "page", [param(page) for page in PAGES if any(b.is_run for b in blocks_of(page))]
)
def test_every_block_of_the_page_runs(page, tmp_path, finished_run):
    desk = make_desk(tmp_path)
    if name := RUN_OF.get(page.name):
        shutil.copytree(finished_run(name), desk / "runs" / name)
    INPUTS.get(page.name, lambda desk: None)(desk)
    blocks = [block for block in blocks_of(page) if block.reason is None]
    printed = run_blocks(blocks, desk, activated=page.name != "README.md")
    for before, block in pairwise(blocks):
        if block.is_printed:
            assert not unsaid(printed[before], block.text), printed[before]
    text = "".join(printed.values())
    assert not [line for line in ALSO_SAID.get(page.name, ()) if line not in text], text
