"""Every block of a page is run, or the page says why it is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from experiments.ablation import Ablation
from schemas.config_file import load_config, parse_config
from tests.kit.pages import small
from tests.kit.pages.blocks import LANGUAGES, PAGES, ROOT, Block, blocks_of, inline_codes

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
COMMAND = re.compile(r"^\s*(?:\$ |python |ray |make |pip |duckdb |tar |export |source )", re.M)


def faults(block: Block) -> list[str]:
    """What is wrong with how a block is marked."""
    found = []
    if block.language not in LANGUAGES:
        found.append(f"the fence wants one of {LANGUAGES} behind it")
    if block.language == "text" and COMMAND.search(block.text):
        found.append("commands are sh, not text")
    if block.reason is not None and len(block.reason.split()) < 3:
        found.append("the mark wants a reason")
    if block.reason is not None and block.language == "text":
        found.append("text is never run: no mark is needed")
    return [f"{block.place}: {fault}" for fault in found]


def test_every_block_is_run_or_marked_with_a_reason():
    assert not [fault for block in BLOCKS for fault in faults(block)]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("```\nmake demo\n```", "wants one of"),
        ("```text\npython jobs/status.py RUN\n```", "commands are sh"),
        ("<!-- not run: -->\n```sh\nray up x\n```", "wants a reason"),
        ("<!-- not run: because -->\n\n```sh\nray up x\n```", "wants a reason"),
    ],
)
def test_a_block_that_is_neither_is_named(text, fault):
    (block,) = blocks_of(Path("page.md"), text)
    assert fault in " ".join(faults(block))


def test_a_mark_holds_for_the_next_block_alone():
    text = "<!-- not run: needs a cloud account -->\n```sh\nray up x\n```\n\n```sh\nls\n```\n"
    marked, run = blocks_of(Path("page.md"), text)
    assert marked.reason == "needs a cloud account"
    assert not marked.is_run
    assert run.is_run


@pytest.mark.parametrize(
    "block",
    [each for each in BLOCKS if each.language == "yaml"],
    ids=lambda block: block.place,
)
def test_every_yaml_block_is_read_as_a_configuration(block):
    tree = yaml.safe_load(block.text)
    if "image" in tree:
        return  # a folder's description: the page with it is run
    if "rows" in tree:
        whole = {"name": "page", "title": block.place, "base": "configs/rooms_demo.yaml"}
        assert Ablation.model_validate(whole | tree).rows
        return
    demo = yaml.safe_load((ROOT / "configs" / "rooms_demo.yaml").read_text())
    if block.file is None:
        tree = demo | {name: {**_old(demo, name, new), **new} for name, new in tree.items()}
    parse_config(tree, origin=block.place)


def _old(demo: dict, name: str, new: dict) -> dict:
    return {} if name == "source" and "kind" in new else demo.get(name, {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_with_commands_says_how_to_activate_the_environment(page):
    commands = [b.text for b in blocks_of(page) if b.language == "sh"]
    if any(re.search(r"^(?:python|ray) ", text, re.M) for text in commands):
        assert "source .venv/bin/activate" in page.read_text()


def test_small_configurations_are_configurations(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    shipped = (ROOT / "configs" / "rooms_demo.yaml").read_text()
    (tmp_path / "configs" / "demo.yaml").write_text(shipped)
    small.main()
    assert load_config("configs/demo.yaml").training.warm_up.steps == 6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_command_in_a_sentence_calls_exists(page):
    """Commands in sentences are not run; their options are tests/architecture's."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for code in inline_codes(page):
        if called := re.match(r"(?:\w+=\S+ )?python (\S+\.py)\b", code):
            assert (ROOT / called[1]).is_file(), code
        elif called := re.fullmatch(r"make ([a-z-]+)", code):
            assert called[1] in targets, code
