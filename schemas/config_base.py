"""What all sections of a configuration share: whether a field is science or operations.

*Science* decides what a run makes and learns: a run directory has one set of it for ever.
*Operations* say where and how that is computed: they may change whenever a run is resumed. What
changes results by rounding alone (another device, how many images are computed together) is
operations; the precision that is computed in is science.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")
Kind = Literal["science", "operations"]


@dataclass(frozen=True)
class _Mark:
    kind: Kind


Science = Annotated[T, _Mark("science")]
Operations = Annotated[T, _Mark("operations")]
"""Types of a field that is not what most fields of its section are."""


def _expect_no_switch(value: Any) -> Any:
    """Pass on all but true and false, which Python takes for one and zero.

    Raises:
        ValueError: On these.
    """
    if isinstance(value, bool):
        raise ValueError("wanted a number")  # noqa: TRY004 - pydantic reports ValueError only
    return value


_IsNumber = BeforeValidator(_expect_no_switch)
Fraction = Annotated[float, _IsNumber, Field(ge=0.0, le=1.0)]
MAX_INT = 2**63 - 1
"""Greatest number that manifests and random generators take."""

PositiveInt = Annotated[int, _IsNumber, Field(ge=1, le=MAX_INT)]
Count = Annotated[int, _IsNumber, Field(ge=0, le=MAX_INT)]


class Section(BaseModel):
    """Base of all sections: immutable, and an unknown key is an error.

    Attributes:
        fields_are: What the fields of the section are, but for those marked otherwise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    fields_are: ClassVar[Kind]

    def __init_subclass__(cls, *, fields_are: Kind, **options: Any) -> None:
        """Note what a section says of its fields: each says it where its class begins."""
        super().__init_subclass__(**options)
        cls.fields_are = fields_are


def sections_in(annotation: Any) -> list[type[Section]]:
    """Sections that a field may hold, by its annotation: none, one, or one of several."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for inner in get_args(annotation) for found in sections_in(inner)]


def kind_of(section: type[Section], field: str) -> Kind:
    """Whether a field of a section is science or operations."""
    marks = [m.kind for m in section.model_fields[field].metadata if isinstance(m, _Mark)]
    return marks[0] if marks else section.fields_are


def values_of(section: Section, prefix: str = "") -> Iterator[tuple[str, Kind, Any]]:
    """Path (``training.ema.decay``), kind and value of all fields, those of subsections too."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from values_of(value, f"{prefix}{name}.")
        elif isinstance(value, tuple) and any(isinstance(each, Section) for each in value):
            for number, each in enumerate(value):
                yield from values_of(each, f"{prefix}{name}.{number}.")
        else:
            yield f"{prefix}{name}", kind_of(type(section), name), value
