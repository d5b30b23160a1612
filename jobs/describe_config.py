"""Print docs/configuration.md: every field of a run with its type, default and meaning.

python jobs/describe_config.py > docs/configuration.md
"""

from __future__ import annotations

import types
import typing
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from schemas.config import FolderSource, RoomsSource, RunConfig, ShardsSource

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

HEAD = """# Configuration

A file in `configs/` is a complete run; `--set section.field=value` changes one value. Unknown keys
and values out of range are errors that say what to do. Made by `python jobs/describe_config.py`.
"""


def describe() -> str:
    """The page, in Markdown."""
    return HEAD + "".join(_section(name, model) for name, model in _sections())


def _sections() -> list[tuple[str, type[BaseModel]]]:
    found: list[tuple[str, type[BaseModel]]] = []
    for name, field in RunConfig.model_fields.items():
        if name == "source":
            found += [
                ("source (kind: rooms)", RoomsSource),
                ("source (kind: folder)", FolderSource),
                ("source (kind: shards)", ShardsSource),
            ]
        else:
            found += _with_children(name, typing.cast("type[BaseModel]", field.annotation))
    return found


def _with_children(name: str, model: type[BaseModel]) -> list[tuple[str, type[BaseModel]]]:
    children = [
        (f"{name}.{child}", field.annotation)
        for child, field in model.model_fields.items()
        if _is_section(field.annotation)
    ]
    return [(name, model), *((n, typing.cast("type[BaseModel]", a)) for n, a in children)]


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _section(name: str, model: type[BaseModel]) -> str:
    doc = (model.__doc__ or "").strip().splitlines()[0]
    lines = [f"\n## {name}\n\n{doc}\n\n| field | type | default | meaning |\n|---|---|---|---|\n"]
    lines += [
        f"| `{field_name}` | {_type_text(field)} | {_default_text(field)} "
        f"| {field.description or ''} |\n"
        for field_name, field in model.model_fields.items()
        if not _is_section(field.annotation)
    ]
    return "".join(lines)


def _type_text(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {value:g}"
        for constraint in field.metadata
        for sign, attribute in (("≥", "ge"), (">", "gt"), ("≤", "le"), ("<", "lt"))
        if (value := getattr(constraint, attribute, None)) is not None
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
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    return "absent" if default is None else f"`{default}`"


if __name__ == "__main__":
    print(describe(), end="")
