"""The fenced blocks of a page, and why a block is not run if the page says so."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "data").rglob("*.md"))
    if path.name != "CHANGELOG.md"
)
RUN = ("sh", "python", "sql")
"""Languages of blocks that are run. A ``yaml`` block is checked, and is written if it names its
file; a ``text`` block is what the block before it prints, or no code at all."""
LANGUAGES = (*RUN, "yaml", "text")
_PRINTS = "<!-- prints -->"
_MARK = re.compile(r"<!-- not run:(?P<reason>.*)-->", re.DOTALL)
_FILE = re.compile(r"# ([\w./-]+\.(?:yaml|py))\b")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: The word behind the fence; empty if there is none.
        is_printed: Whether it is what the block before it prints, as a comment says.
        reason: Why it is not run, as the comment before it says; None without such a comment.
        file: The file that the page tells the reader to write, from the block's first line.
    """

    page: Path
    line: int
    language: str
    text: str
    reason: str | None = None
    is_printed: bool = False

    @property
    def place(self) -> str:
        """Page and line, as an editor takes them."""
        return f"{self.page.name}:{self.line}"

    @property
    def file(self) -> str | None:
        found = _FILE.match(self.text)
        return found[1] if found and self.language in ("yaml", "python") else None

    @property
    def is_run(self) -> bool:
        return self.language in RUN and self.reason is None


def inline_codes(page: Path) -> list[str]:
    """What stands between backticks in sentences and tables."""
    tokens = MarkdownIt().enable("table").parse(page.read_text())
    children = (child for token in tokens for child in token.children or ())
    return [child.content for child in children if child.type == "code_inline"]


def blocks_of(page: Path, text: str | None = None) -> list[Block]:
    """All fenced blocks of a page, in order."""
    found, mark = [], ""
    for token in MarkdownIt().parse(page.read_text() if text is None else text):
        if token.type == "fence":
            line = (token.map or [0])[0] + 1
            reason = _MARK.search(mark)
            block = Block(
                page,
                line,
                token.info.strip(),
                token.content,
                reason=reason["reason"].strip() if reason else None,
                is_printed=_PRINTS in mark,
            )
            found.append(block)
        mark = token.content if token.type == "html_block" else ""
    return found
