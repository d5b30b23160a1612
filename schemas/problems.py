"""What pydantic finds wrong with a file of a user, as lines that say field, value and remedy."""

from __future__ import annotations

import difflib
import re
import types
import typing
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from schemas.text import number_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import ValidationError

_MOST_SHOWN = 200
_INPUT_SHOULD = "Input should be "
_UNIONS = (types.UnionType, typing.Union)
_SCALARS = (str, int, float)
_PLAIN = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "null",
}
_BOUNDS = (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))
_NOT_SHOWN = 2**53
"""Bounds beyond it keep numbers within what is stored; nobody needs to be told."""


def problem_lines(
    error: ValidationError, root: type[BaseModel], *, page: str, word: str = "key"
) -> list[str]:
    """Translate every problem of an input.

    Args:
        root: What the input was checked as.
        page: Document that explains its fields.
        word: What a field is called in it.

    Returns:
        A line for each field that is wrong: its path, its value, what is wanted. Names that
        pydantic gives to the branches of a type are left out.
    """
    found: dict[str, list[_Problem]] = {}
    for item in error.errors():
        one = _locate(root, typing.cast("dict[str, Any]", item))
        found.setdefault(one.path, []).append(one)
    # A list whose items are wrong is counted without them: the items say what is wrong.
    return [
        f"  {_explain(together, page, word)}"
        for path, together in found.items()
        if not any(other.startswith(f"{path}.") for other in found)
    ]


def describe_problems(
    origin: object,
    error: ValidationError,
    root: type[BaseModel],
    *,
    page: str,
    word: str = "key",
) -> str:
    """The lines of :func:`problem_lines` below one that names the file and counts them."""
    lines = problem_lines(error, root, page=page, word=word)
    return "\n".join([f"{origin}: {number_of(len(lines), 'problem')}", *lines])


class _Place(NamedTuple):
    """A field, or a part of one: what it may be, and what is said of it."""

    annotation: Any
    metadata: tuple[Any, ...] = ()
    meaning: str = ""


class _Problem(NamedTuple):
    item: dict[str, Any]
    path: str
    place: _Place | None
    parent: _Place


def _locate(root: type[BaseModel], item: dict[str, Any]) -> _Problem:
    """Follow the path of an error through the annotations."""
    path, parent, place = "", _Place(root), _Place(root)
    rest = [*item["loc"]]
    while rest:
        part = rest.pop(0)
        inner = _key_of(parent) if part == "[key]" else _inner(place, part)
        if part == "[key]" and inner is not None:
            return _Problem(item, path, inner, parent)
        if inner is None:
            if rest or item["type"] != "extra_forbidden":
                continue  # pydantic's own name of a branch
            return _Problem(item, _joined(path, part), None, place)
        path, parent, place = _joined(path, part), place, inner
    return _Problem(item, path, place, parent)


def _joined(path: str, part: str | int) -> str:
    return f"{path}.{part}" if path else str(part)


def _inner(place: _Place, part: str | int) -> _Place | None:
    """What lies under one step of a path; None if the step is no part of the input."""
    for annotation in _choices(place.annotation):
        arguments = typing.get_args(annotation)
        origin = typing.get_origin(annotation)
        if _is_model(annotation) and part in annotation.model_fields:
            field = annotation.model_fields[str(part)]
            return _Place(field.annotation, tuple(field.metadata), field.description or "")
        if origin in {tuple, list} and isinstance(part, int):
            one = arguments[min(part, len(arguments) - 1)] if arguments else Any
            one = arguments[0] if one is Ellipsis else one
            return _Place(one, meaning=place.meaning)
        if origin is dict:
            return _Place(arguments[1], meaning=place.meaning)
    return None


def _key_of(place: _Place) -> _Place | None:
    for annotation in _choices(place.annotation):
        if typing.get_origin(annotation) is dict:
            return _Place(typing.get_args(annotation)[0], meaning=place.meaning)
    return None


def _choices(annotation: Any) -> list[Any]:
    """The types that an annotation allows, without None."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _choices(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in _UNIONS:
        return [one for part in typing.get_args(annotation) for one in _choices(part)]
    return [] if annotation is type(None) else [annotation]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _explain(together: list[_Problem], page: str, word: str) -> str:
    first = together[0]
    kind, value = first.item["type"], first.item["input"]
    if kind == "extra_forbidden":
        advice = _closest(first.path, first.parent) or f"remove it or see {page}"
        return f"{first.path[:_MOST_SHOWN]} = {_shown(value)}: unknown {word}; {advice}"
    if kind == "missing":
        meaning = first.place.meaning if first.place else ""
        return f"{first.path}: missing; add it ({meaning or f'see {page}'})"
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        return _about_tag(first)
    if not first.path:
        return _about_rule(first.item) or f"{_about_type(first, value)}"
    shown = "" if isinstance(value, dict) else f" = {_shown(value)}"
    if isinstance(value, bool):
        read = "yes and on" if value else "no and off"
        shown = f" = {str(value).lower()} ({read} are read so; a text wants quotes)"
    meaning = f" ({first.place.meaning})" if first.place and first.place.meaning else ""
    rule = _about_rule(first.item) if len(together) == 1 else ""
    return f"{first.path}{shown}: {rule or _about_type(first, value)}{meaning}"


def _about_tag(problem: _Problem) -> str:
    """A section of several kinds whose kind is none of them, or is not given."""
    context = problem.item["ctx"]
    name = _joined(problem.path, str(context["discriminator"]).strip("'"))
    known = context.get("expected_tags") or ", ".join(
        repr(model.model_fields[name.rpartition(".")[2]].default)
        for model in _choices(problem.place.annotation if problem.place else None)
    )
    found = f" = {_shown(context['tag'])}" if "tag" in context else ": missing"
    return f"{name}{found}: wanted one of {known.replace(chr(39), '')}"


def _about_rule(item: dict[str, Any]) -> str:
    """What a rule of the project or a bound says; empty for errors of type."""
    kind, text = str(item["type"]), str(item["msg"])
    if kind in {"value_error", "assertion_error", "json_invalid"}:
        text = re.sub(r"^(Value|Assertion) error, ", "", text)
        return text[:1].lower() + text[1:]
    if kind in {"too_short", "too_long"}:
        bound = "at least" if kind == "too_short" else "at most"
        number = item["ctx"].get("min_length", item["ctx"].get("max_length"))
        return f"wanted {bound} {number} of them, found {item['ctx'].get('actual_length')}"
    is_bound = kind.startswith(("greater_than", "less_than", "finite_number", "multiple_of"))
    return f"wanted {text.removeprefix(_INPUT_SHOULD)}" if is_bound else ""


def _about_type(problem: _Problem, value: object) -> str:
    if problem.place is None:
        return f"wanted {str(problem.item['msg']).removeprefix(_INPUT_SHOULD)}"
    place = problem.place
    wanted = f"wanted {_in_words(place.annotation, place.metadata)}"
    if isinstance(value, _SCALARS) and not isinstance(value, bool):
        if as_list := _as_list(place.annotation, value):
            return f"{wanted}; write {as_list}"
        if near := difflib.get_close_matches(str(value), _literals(place.annotation), n=1):
            return f"{wanted}; did you mean {near[0]}?"
    return wanted


def _as_list(annotation: Any, value: object) -> str:
    """A value as the list that was wanted; empty if no list was."""
    lists = [one for one in _choices(annotation) if typing.get_origin(one) in {tuple, list}]
    if not lists:
        return ""
    # As people write two sizes or several tasks.
    separators = r"[,;\s]+|(?<=\d)[x×](?=\d)"
    parts = [part for part in re.split(separators, str(value).strip("()[] ")) if part]
    return f"[{', '.join(parts)}]"[:_MOST_SHOWN]


def _literals(annotation: Any) -> list[str]:
    return [
        str(choice)
        for one in _choices(annotation)
        if typing.get_origin(one) is Literal
        for choice in typing.get_args(one)
    ]


def _in_words(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """What a type takes."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _in_words(arguments[0], [*metadata, *_flat(arguments[1:])])
    if origin in _UNIONS:
        parts = (part for part in arguments if part is not type(None))
        return " or ".join(_in_words(part) for part in parts)
    if origin is Literal:
        *most, last = ("true" if choice is True else str(choice) for choice in arguments)
        return f"{', '.join(most)} or {last}" if most else last
    if origin is not None:
        return _container_in_words(origin, arguments)
    if _is_model(annotation):
        return f"fields such as {', '.join([f'{name}:' for name in annotation.model_fields][:4])}"
    plain = _PLAIN.get(annotation, str(getattr(annotation, "__name__", annotation)))
    return " ".join(filter(None, [plain, ", ".join(_bounds(metadata))]))


def _container_in_words(origin: Any, arguments: tuple[Any, ...]) -> str:
    inner = [_in_words(one) for one in arguments if one is not Ellipsis]
    if origin is dict:
        return f"a mapping from {inner[0]} to {inner[1]}"
    if Ellipsis in arguments or origin is list:
        return f"a list, each {inner[0]}"
    return f"a list of {len(inner)}, each {inner[0]}"


def _flat(metadata: Iterable[Any]) -> list[Any]:
    return [
        part for one in metadata for part in (one.metadata if isinstance(one, FieldInfo) else [one])
    ]


def _bounds(metadata: Iterable[Any]) -> list[str]:
    return [
        f"{name} {value:g}"
        for one in metadata
        for attribute, name in _BOUNDS
        if (value := getattr(one, attribute, None)) is not None and abs(value) < _NOT_SHOWN
    ]


def _closest(path: str, parent: _Place) -> str:
    known = [
        name
        for model in _choices(parent.annotation)
        if _is_model(model)
        for name in model.model_fields
    ]
    near = difflib.get_close_matches(path.rpartition(".")[2], known, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"known here: {', '.join(dict.fromkeys(known))}" if known else ""


def _shown(value: object) -> str:
    return f"{value!r:.{_MOST_SHOWN}}"
