"""A reader's desk: a copy of the checkout in which the blocks of a page run in their order."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.kit.job_process import environment, ray_folder, running
from tests.kit.pages.blocks import ROOT, Block

# .gitignore is copied: it says what `ray job submit` leaves out.
_NOT_COPIED = shutil.ignore_patterns(
    *(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "shared")
)
_ONLY_READ = ("data", "starter")
_OF_ITS_OWN = ("unshare", "-rnpf", "--mount-proc", "--kill-child")
"""A network and process ids of its own, so that a page may use Ray's usual ports and
``ray stop``."""
_PAGE_S = 1700
"""Long enough for a machine that does much else; an idle one needs a minute."""
_SQL = """import duckdb, sys
with duckdb.connect() as connection:
    for statement in connection.extract_statements(open(sys.argv[1]).read()):
        print(*connection.execute(statement).fetchall(), sep="\\n")
"""


def make_desk(folder: Path) -> Path:
    """A checkout in ``folder/desk``: the environment and the shipped data are those of this one."""
    desk = folder / "desk"
    skipped = [*_ONLY_READ, "runs"]
    shutil.copytree(
        ROOT,
        desk,
        ignore=lambda path, names: {
            *_NOT_COPIED(path, names),
            *(skipped if Path(path) == ROOT else ()),
        },
    )
    shutil.copytree(ROOT / "runs", desk / "runs", ignore=_runs)
    for name in _ONLY_READ:
        (desk / name).symlink_to(ROOT / name)
    # For make the environment is newer than what it is made from.
    (desk / ".venv").mkdir()
    for path in Path(sys.prefix).iterdir():
        if path.name != ".installed":
            (desk / ".venv" / path.name).symlink_to(path)
    (desk / ".venv" / ".installed").touch()
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(desk / name, (0, 0))
    return desk


def _runs(path: str, names: list[str]) -> set[str]:
    if Path(path) != ROOT / "runs":
        return _NOT_COPIED(path, names)
    return {
        name
        for name in names
        if not name.endswith(".py") and not Path(path, name, "__init__.py").is_file()
    }


def run_blocks(blocks: Sequence[Block], desk: Path, *, activated: bool = True) -> dict[Block, str]:
    """Run the blocks in one shell, and write the files that they are.

    Args:
        activated: Whether the reader has activated the environment before.

    Returns:
        What each block printed.

    Raises:
        AssertionError: If a block fails.
    """
    folder = desk.parent / "page"
    folder.mkdir()
    script = folder / "script.sh"
    script.write_text("\n".join(_script(blocks, desk, folder)))
    with ray_folder() as ray:
        known = environment(ray, HOME=str(folder), PYTHONPATH=str(desk), COLUMNS="100")
        path = [*([str(desk / ".venv" / "bin")] if activated else []), "/usr/bin", "/bin"]
        known["PATH"] = os.pathsep.join([*path, "/usr/sbin", "/sbin"])
        command = [*(_OF_ITS_OWN if can_be_alone() else ()), "bash", str(script)]
        with running(command, log=folder / "log", environment=known) as shell:
            ended = shell.wait(_PAGE_S)
    printed = {block: _read(folder / f"{i:03d}.out") for i, block in enumerate(blocks)}
    if ended.code != 0:
        last = [block for block in blocks if printed[block] is not None][-1:]
        shown = "\n".join(f"{each.place}:\n{each.text}\n{printed[each]}" for each in last)
        raise AssertionError(f"exit code {ended.code}: {ended.output}{shown}")
    return {block: text or "" for block, text in printed.items()}


def _script(blocks: Sequence[Block], desk: Path, folder: Path) -> list[str]:
    lines = ["set -eo pipefail", f"cd '{desk}'"]
    if can_be_alone():
        lines.append("ip link set lo up")
    for i, block in enumerate(blocks):
        source = folder / f"{i:03d}.{block.language}"
        source.write_text(block.text)
        lines += [f"exec >'{folder}/{i:03d}.out' 2>&1", *_commands(block, source)]
    return lines


def _commands(block: Block, source: Path) -> list[str]:
    small = f"'{sys.executable}' tests/kit/pages/small.py"
    written = f"mkdir -p \"$(dirname '{block.file}')\"; cp '{source}' '{block.file}'"
    if block.language == "sh":
        return [small, block.text]
    if block.language == "sql":
        source.with_name("run_sql.py").write_text(_SQL)
        return [f"python '{source.with_name('run_sql.py')}' '{source}'"]
    if block.language == "python":
        return [f"python '{source}'" if block.file is None else f"{written}; python '{block.file}'"]
    return [] if block.file is None else [written]


def _read(path: Path) -> str | None:
    return path.read_text(errors="replace") if path.exists() else None


@functools.cache
def can_be_alone() -> bool:
    """Whether this machine lets a process have a network and process ids of its own."""
    command = [*_OF_ITS_OWN, "ip", "link", "set", "lo", "up"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def unsaid(printed: str, expected: str) -> list[str]:
    """Lines of ``expected`` that were not printed; figures may differ, and ``…`` is anything."""
    found = _plain(printed)
    return [line for line in expected.splitlines() if not re.search(_pattern(line), found)]


def _pattern(line: str) -> str:
    return r"[^\n]*".join(re.escape(_plain(part).strip()) for part in line.split("…"))


def _plain(text: str) -> str:
    text = re.sub(r"[─━│┃┏┓┗┛┡┩└┘├┤┳┻╇┴┬┼╋╪]+", " ", text)
    text = re.sub(r"\d+(?:[.,:]\d+)*", "0", text)
    return re.sub(r"[ \t]+", " ", text)
