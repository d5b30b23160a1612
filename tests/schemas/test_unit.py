"""Units: their id depends on everything that decides their images, and they read back equal."""

from __future__ import annotations

from dataclasses import replace

from schemas.unit import Unit, synthetic_key

UNIT = Unit(
    round=0,
    kind="synthesize",
    source_shard="train-000000",
    keys=("a", "b"),
    variants=2,
    seed=0,
    recipe_hash="f00d",
)


def test_the_id_depends_on_every_field() -> None:
    others = [
        replace(UNIT, round=1),
        replace(UNIT, kind="relabel"),
        replace(UNIT, source_shard="train-000001"),
        replace(UNIT, keys=("a",)),
        replace(UNIT, variants=1),
        replace(UNIT, seed=1),
        replace(UNIT, recipe_hash="beef"),
        replace(UNIT, parent_unit_id="x"),
    ]
    assert len({UNIT.unit_id, *(other.unit_id for other in others)}) == 1 + len(others)


def test_a_unit_reads_back_equal() -> None:
    assert Unit.from_json(UNIT.to_json()) == UNIT


def test_an_image_keeps_its_key_when_it_is_labelled_again() -> None:
    again = replace(UNIT, round=1, kind="relabel", parent_unit_id=UNIT.unit_id)
    assert synthetic_key(UNIT, "a", 1) == synthetic_key(again, "a", 1)
    assert synthetic_key(UNIT, "a", 0) != synthetic_key(UNIT, "a", 1)
