"""Print docs/configuration.md: every field of a run with its type, default and meaning.

python jobs/describe_config.py > docs/configuration.md
"""

from __future__ import annotations

import types
import typing
from typing import TYPE_CHECKING, Any, Literal

from schemas.config import RunConfig
from schemas.config_base import MAX_INT, Section, kind_of, sections_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

HEAD = """# Configuration

A file in `configs/` is a complete run; `--set section.field=value` changes one value. Unknown keys
and values out of range are errors that say what to do.

*Science* decides what a run makes and learns: a run keeps it, and a command with another value is
refused. *Operations* say where and how that is computed: another value may be given whenever a run
is resumed, counts from then on and leaves an event `config_changed`.

Made by `python jobs/describe_config.py > docs/configuration.md`.
"""
COLUMNS = "| field | type | default | is | meaning |\n|---|---|---|---|---|\n"
_SIGNS = (("≥", "ge"), (">", "gt"), ("≤", "le"), ("<", "lt"))


def describe() -> str:
    """The page, in Markdown; a section that lies in several places comes once."""
    titles: dict[type[Section], str] = {}
    for title, section in _sections(RunConfig):
        titles.setdefault(section, title)
    return HEAD + "".join(_section(title, section) for section, title in titles.items())


def _sections(parent: type[Section], prefix: str = "") -> Iterator[tuple[str, type[Section]]]:
    for name, field in parent.model_fields.items():
        found = sections_in(field.annotation)
        for section in found:
            kind = f" (kind: {section.model_fields['kind'].default})" if len(found) > 1 else ""
            yield f"{prefix}{name}{kind}", section
            yield from _sections(section, f"{prefix}{name}.")


def _section(title: str, section: type[Section]) -> str:
    doc = (section.__doc__ or "").strip().splitlines()[0]
    lines = [f"\n## {title}\n\n{doc}\n\n", COLUMNS]
    lines += [
        f"| `{name}` | {_type_text(field)} | {_default_text(field)} | {kind_of(section, name)} "
        f"| {field.description or ''} |\n"
        for name, field in section.model_fields.items()
        if not sections_in(field.annotation)
    ]
    return "".join(lines)


def _type_text(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {value:g}"
        for constraint in field.metadata
        for sign, attribute in _SIGNS
        if (value := getattr(constraint, attribute, None)) not in (None, MAX_INT)
    ]
    return ", ".join([_annotation_text(field.annotation), *bounds])


def _annotation_text(annotation: Any) -> str:
    if typing.get_origin(annotation) is Literal:
        return " · ".join(str(choice) for choice in typing.get_args(annotation))
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        parts = [_annotation_text(a) for a in typing.get_args(annotation)]
        return " or ".join("absent" if part == "NoneType" else part for part in parts)
    if typing.get_origin(annotation) is tuple:
        return f"list of {_annotation_text(typing.get_args(annotation)[0])}"
    if typing.get_origin(annotation) is typing.Annotated:
        return _annotation_text(typing.get_args(annotation)[0])
    return str(getattr(annotation, "__name__", annotation))


def _default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default in (None, ""):
        return "absent" if default is None else "empty"
    return f"`{list(default) if isinstance(default, tuple) else default}`"


if __name__ == "__main__":
    print(describe(), end="")
