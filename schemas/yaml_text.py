"""YAML of any origin: plain values, or one sentence on what is wrong with it.

Numbers are read as people mean them: ``0010`` is a text, which a field of numbers takes for ten and
a field of names as it is; dates and times of day are texts. (YAML 1.1 reads an eight, a date, and
a number of seconds.) A key ``[128, 64, 128]`` is the text ``128, 64, 128``, as colours are written,
and a key ``on`` is the text. A key that is given twice is refused.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from schemas.recognise import picture_format
from schemas.text import decode_text

MAX_BYTES = 1 << 18
"""Longer texts are refused before they are parsed."""

MAX_EXPANDED = 1 << 19
"""Greatest number of nodes and characters once every alias is written out."""

MAX_DEPTH = 64
"""Greatest number of lists and mappings within each other."""

_MOST_SAID = 500
_MOST_LINE = 120
_BRACES = re.compile(r"\{\w+\}")
_TEXT, _SWITCH, _MERGE = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "bool", "merge"))

_OWN_RULES = {
    "tag:yaml.org,2002:timestamp": None,
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+][0-9]+)?$|[-+]?\.(inf|Inf|INF)$"
        r"|\.(nan|NaN|NAN)$"
    ),
}
"""What a plain value is that looks like a number; None: a text."""


def parse_yaml(data: bytes | str) -> Any:
    """Parse one document into plain values; no tag ever makes an object.

    Args:
        data: UTF-8, or what a mark of the byte order says; or a text.

    Raises:
        ValueError: If it is not YAML or no text, names a key twice, is too large or nested too
            deeply, or its aliases multiply (the size is checked before anything is built); the
            text is short, and has the remedy where one is known.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"too large: {len(data)} bytes; wanted at most {MAX_BYTES}")
    try:
        return _build(data if isinstance(data, str) else decode_text(data))
    except UnicodeDecodeError as error:
        raise ValueError(_about_bytes(bytes(error.object), error)) from error
    except RecursionError as error:
        raise ValueError(f"nested too deeply; wanted at most {MAX_DEPTH} levels") from error


def _build(text: str) -> Any:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _expect_small(node)
        return loader.construct_document(node)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"not YAML (line {line}: {_about_sign(text, error)})") from error
    except yaml.MarkedYAMLError as error:
        raise ValueError(f"not YAML ({_about_place(text, error)[:_MOST_SAID]})") from error
    except _RefusedError:
        raise
    except (ValueError, OverflowError) as error:
        # Such as a date that does not exist, or a number of thousands of digits.
        raise ValueError(f"not YAML ({str(error)[:_MOST_SAID]})") from error


def _about_bytes(data: bytes, error: UnicodeDecodeError) -> str:
    if name := picture_format(data):
        return f"wanted text, found a {name} picture"
    return f"wanted text in UTF-8, found {error}; save it as UTF-8"


def _about_sign(text: str, error: yaml.reader.ReaderError) -> str:
    return f"the sign U+{ord(text[error.position]):04X}, which no text holds; take it out"


def _about_place(text: str, error: yaml.MarkedYAMLError) -> str:
    """What is wrong in which line, with a remedy for what people often do."""
    problem, mark = error.problem or "", error.problem_mark or error.context_mark
    if mark is None:
        return problem
    line = text.splitlines()[mark.line] if mark.line < len(text.splitlines()) else ""
    where = f"line {mark.line + 1}: "
    if "'\\t'" in problem:
        return f"{where}a tab; YAML wants blanks"
    if "another document" in problem:
        return f"{where}a second document begins; keep one"
    if "for the tag" in problem:
        return f"{where}the tag {problem.rpartition('tag ')[2]}; leave it out"
    said = f"{where}{problem}: {line.strip()[:_MOST_LINE]!r}"
    return f"{said}; patterns with braces need quotes" if _BRACES.search(line) else said


class _RefusedError(ValueError):
    """YAML that is refused: a key twice, or what a small text would become."""


class _Loader(yaml.SafeLoader):
    """YAML whose numbers are what people mean, and whose keys are texts, each given once."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        node.value = [(_key_as_text(key), value) for key, value in node.value]
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise _RefusedError(
                    f"{key.value[:_MOST_LINE]!r} is given twice, in line {lines[key.value]} and "
                    f"line {line}; keep one"
                )
            lines[key.value] = line
        return node


def _key_as_text(key: yaml.Node) -> yaml.Node:
    """The key ``[128, 64, 128]`` as the text ``128, 64, 128``, and ``on`` and ``no`` as written."""
    if key.tag == _SWITCH:
        return yaml.ScalarNode(_TEXT, key.value, key.start_mark, key.end_mark)
    parts = [each.value for each in key.value] if isinstance(key, yaml.SequenceNode) else []
    if len(parts) != 3 or not all(isinstance(part, str) and part.isdecimal() for part in parts):
        return key
    return yaml.ScalarNode(_TEXT, ", ".join(parts), key.start_mark, key.end_mark)


_Loader.yaml_implicit_resolvers = {
    sign: [each for each in resolvers if each[0] not in _OWN_RULES]
    for sign, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _rule in _OWN_RULES.items():
    if _rule is not None:
        _Loader.add_implicit_resolver(_tag, _rule, list("-+.0123456789"))


def _expect_small(root: yaml.Node) -> None:
    """Walk the document as if each alias were a copy, and stop where that is too much.

    Raises:
        _RefusedError: There.
    """
    size = 0
    waiting: list[tuple[yaml.Node, int]] = [(root, 1)]
    while waiting:
        node, depth = waiting.pop()
        size += 1
        if isinstance(node, yaml.ScalarNode):
            size += len(node.value)
        elif isinstance(node, yaml.SequenceNode):
            waiting.extend((each, depth + 1) for each in node.value)
        elif isinstance(node, yaml.MappingNode):
            waiting.extend((each, depth + 1) for pair in node.value for each in pair)
        if depth > MAX_DEPTH:
            raise _RefusedError(f"nested too deeply; wanted at most {MAX_DEPTH} levels")
        if size > MAX_EXPANDED:
            raise _RefusedError(
                "its aliases multiply into too many values; write out what they stand for"
            )
