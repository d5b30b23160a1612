"""What the documents name exists: files, folders, links with their anchors, functions, tests."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "data").rglob("*.md"))
    if path.name != "CHANGELOG.md"  # it also names what was renamed
)
TOP = "|".join(sorted(path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()))
MADE_UP = {
    *("mine.yaml", "mine_folder.yaml", "first.yaml", "first_photos.yaml"),
    *("YOURS.yaml", "NAME.yaml", "demo", "mine", "first"),
}
"""Files that a reader is to write or that a run makes, and the place of a name."""
NO_FIELDS = {"ray.wait", "ray.cluster_utils", "model.safetensors"}
"""Names that are written like a field of the configuration."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_link_and_dotted_name_exists(document: Path) -> None:
    text = document.read_text()
    missing = [path for path in _paths(text) if not (ROOT / path).exists()]
    missing += [name for name in _dotted_names(text) if not _exists(name)]
    assert not missing
    assert not [link for link in _links(text) if not _leads_somewhere(document, link)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_option_of_a_command_and_every_field_exists(document: Path) -> None:
    text = document.read_text().replace("\\\n", " ")
    _expect_options(text)
    fields = (ROOT / "docs" / "configuration.md").read_text()
    sections = set(re.findall(r"^## ([\w.]+)", fields, re.MULTILINE))
    for section, field in re.findall(r"`([a-z_.]+)\.([a-z_]+)(?:`|[=:] ?[^\n`]*`)", text):
        name = f"{section}.{field}"
        if section in sections and name not in sections | NO_FIELDS:
            assert f"| `{field}` |" in fields, name


COMMANDED = sorted(
    [
        *(ROOT / "jobs").glob("*.py"),
        *ROOT.glob("*.yaml"),
        *(path for folder in ("configs", "kuberay") for path in (ROOT / folder).rglob("*.yaml")),
    ]
)
"""Files whose first lines say how they are used."""


@pytest.mark.parametrize("file", COMMANDED, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_file_says_of_commands_exists(file: Path) -> None:
    text = _introduction(file)
    _expect_options(text.replace("\\\n#", " ").replace("\\\n", " "))
    assert not [path for path in _paths(text) if not (ROOT / path).exists()]


def test_every_equation_names_an_existing_function_and_test() -> None:
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in (ROOT / "docs" / "equations.md").read_text().splitlines()
        if line.startswith("|") and "`" in line
    ]
    assert len(rows) >= 10
    for row in rows:
        *_, function, test = row
        for reference in (*_quoted(function), *_quoted(test)):
            assert _exists(reference), f"{reference} of docs/equations.md does not exist"


def _introduction(file: Path) -> str:
    """The docstring of a module, the comments of a YAML file."""
    if file.suffix == ".py":
        return ast.get_docstring(ast.parse(file.read_text())) or ""
    return "\n".join(line for line in file.read_text().splitlines() if line.startswith("#"))


def _expect_options(text: str) -> None:
    for job, rest in re.findall(r"(?<![\w/.-])(jobs/\w+\.py)([^`\n]*)", text):
        source = _with_imports(ROOT / job)
        options = set(re.findall(r"(?<!\S)\[?(--[a-z][a-z-]*)", rest)) - {"--help"}
        assert not [option for option in options if option not in source], job


def _with_imports(path: Path) -> set[str]:
    """Words in quotes of a file and of the files that it imports."""
    text = path.read_text()
    modules = re.findall(r"^from ([\w.]+) import", text, re.MULTILINE)
    files = [ROOT.joinpath(*module.split(".")).with_suffix(".py") for module in modules]
    texts = [text, *(file.read_text() for file in files if file.is_file())]
    return {word for each in texts for word in re.findall(r'"(--[\w-]+)"', each)}


def _paths(text: str) -> list[str]:
    """Files below a package or another folder of the repository, and folders of packages."""
    folders = rf"(?:{TOP}|tests|docs|configs|benchmarks|examples|kuberay|data)"
    files = re.findall(rf"(?<![\w/.{{}}-])({folders}/[\w./-]+\.(?:py|md|yaml|json))\b", text)
    named = re.findall(rf"`((?:{TOP}|tests|docs|configs|benchmarks|examples)/[\w/]*)`", text)
    return [path for path in (*files, *named) if Path(path).name not in MADE_UP]


def _dotted_names(text: str) -> list[str]:
    """Names such as ``storage.manifests.table.manifest_table``; with one dot it is a field."""
    names = re.findall(rf"`((?:{TOP})(?:\.\w+)+)`", text)
    return [name for name in names if name.count(".") > 1]


def _links(text: str) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]


def _leads_somewhere(document: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = document.parent / path if path else document
    if not anchor or not target.is_file():
        return target.exists()
    titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
    return anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _quoted(cell: str) -> list[str]:
    return [part for part in cell.split("`")[1::2] if part]


def _exists(reference: str) -> bool:
    """Look up ``package.module.name`` or ``tests/file.py::test_name`` in the source text."""
    if "::" in reference:
        file, name = reference.split("::")
        return (ROOT / file).is_file() and f"def {name}" in (ROOT / file).read_text()
    *module, name = reference.split(".")
    if ROOT.joinpath(*module, name).with_suffix(".py").is_file():
        return True
    for depth in range(len(module), 0, -1):
        path = ROOT.joinpath(*module[:depth]).with_suffix(".py")
        if path.is_file():
            return (
                re.search(rf"^ *(?:def|class) {name}\b|^{name}\b", path.read_text(), re.M)
                is not None
            )
    return False
