"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "schemas",
    "storage",
    "perception",
    "sources",
    "evaluation",
    "pipeline",
    "trainers",
    "ops",
    "runs",
    "deployment",
    "experiments",
    "kit",
    "jobs",
)
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SCRIPTS = sorted(
    path for part in ("benchmarks", "examples") for path in (ROOT / part).rglob("*.py")
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_LINES = 400
UNPICKLERS = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec"),
    *("torch.load", "torch.jit.load", "torch.hub.load", "np.load", "numpy.load", "pd.read_pickle"),
    *(
        "yaml.load",
        "yaml.unsafe_load",
        "yaml.full_load",
        "os.system",
        "os.popen",
        "tempfile.mktemp",
    ),
}
SWITCHED_OFF = {"trust_remote_code", "allow_pickle", "shell"}
"""Arguments that may only be written as False."""


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree_of(path)))


@functools.cache
def imported_modules(path: Path) -> frozenset[str]:
    names: set[str] = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return frozenset(names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_a_sentence_on_its_job_and_a_readable_length(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(tree_of(path)), "every module begins with a docstring"
    assert len(text.splitlines()) <= MAX_LINES


def test_ray_is_imported_only_in_the_packages_named_for_it() -> None:
    importers = {
        path
        for path in FILES
        if any(name == "ray" or name.startswith("ray.") for name in imported_modules(path))
    }
    assert importers
    assert all(path.parent.name == "on_ray" for path in importers), sorted(importers)


def test_a_test_imports_products_and_the_kit_but_no_other_test() -> None:
    for path in TESTS:
        imported = imported_modules(path)
        packages = {name.partition(".")[0] for name in imported}
        assert "benchmarks" not in packages or path.parent.name == "benchmarks", path
        of_tests = {name for name in imported if name.partition(".")[0] == "tests"}
        strange = {name for name in of_tests if not f"{name}.".startswith("tests.kit.")}
        assert not strange, f"{path} imports {strange}; move what it needs to tests/kit"


def test_nothing_unpickles_or_evaluates() -> None:
    assert len(SCRIPTS) > 5
    for path in (*FILES, *SCRIPTS):
        imported = {name.split(".")[0] for name in imported_modules(path)}
        assert not UNPICKLERS & imported, path
        for node in nodes_of(path):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in FORBIDDEN_CALLS, f"{path}:{node.lineno}: {called}"
                switched = [k for k in node.keywords if k.arg in SWITCHED_OFF]
                assert all(ast.unparse(k.value) == "False" for k in switched), path


def test_schemas_import_without_heavy_libraries() -> None:
    code = (
        "import sys, pkgutil, importlib, schemas\n"
        "for m in pkgutil.iter_modules(schemas.__path__):\n"
        "    importlib.import_module('schemas.' + m.name)\n"
        "heavy = {'torch', 'ray', 'numpy', 'pyarrow', 'diffusers', 'transformers'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
