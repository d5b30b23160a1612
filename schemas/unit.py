"""The quantum of generation work: leased, retried, committed and resumed as a whole."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from schemas.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping

UnitKind = Literal["synthesize", "relabel"]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One piece of the plan.

    Attributes:
        round: Round of the loop it belongs to, from 0.
        kind: ``synthesize`` makes images and labels them; ``relabel`` labels the images of the
            unit ``parent_unit_id`` again with newer creation weights.
        source_shard: Name of the source shard its images start from.
        keys: Source keys, in order (a contiguous key range of the shard).
        variants: Synthetic images made from each source image.
        seed: The run's seed.
        recipe_hash: Digest of everything else that decides the images (creator settings,
            backbone, captioner); two units with equal fields make equal images.
        parent_unit_id: For ``relabel``, the ``synthesize`` unit whose images it takes; else "".
        revision: 0 as planned; each retry of the unit and each removal of its bytes is one more.
            Of a unit's revisions the greatest counts. No part of the unit's identity.
    """

    round: int
    kind: UnitKind
    source_shard: str
    keys: tuple[str, ...]
    variants: int
    seed: int
    recipe_hash: str
    parent_unit_id: str = ""
    revision: int = 0

    @cached_property
    def unit_id(self) -> str:
        """Sixteen hexadecimal digits that depend on every field but the revision."""
        values = self._values()
        del values["revision"]
        return digest_of(values)

    @property
    def image_unit_id(self) -> str:
        """Id of the unit that made the images: this one, or the parent of a ``relabel`` unit."""
        return self.parent_unit_id or self.unit_id

    @property
    def num_samples(self) -> int:
        """Samples it makes when none fails."""
        return len(self.keys) * self.variants

    def to_json(self) -> str:
        """Serialise all fields, sorted by name; a revision of 0 is left out."""
        values = self._values()
        if not self.revision:
            del values["revision"]
        return json.dumps(values, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Unit:
        """Parse what :meth:`to_json` wrote.

        Raises:
            TypeError: If a field is missing or unknown.
        """
        return Unit.from_values(json.loads(text))

    @staticmethod
    def from_values(values: Mapping[str, Any]) -> Unit:
        """Make a unit from the fields of :meth:`to_json`.

        Raises:
            TypeError: If a field is missing or unknown.
        """
        return Unit(**{**values, "keys": tuple(values["keys"])})

    def _values(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def synthetic_key(unit: Unit, source_key: str, variant: int) -> str:
    """Name a synthetic sample.

    The same image keeps its name when it is labelled again: the name is built from the unit that
    made the image (``parent_unit_id`` of a ``relabel`` unit), the source key and the variant.
    """
    return f"{unit.image_unit_id}_{source_key}_v{variant}"
