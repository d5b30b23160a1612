"""The manifest's columns only grow: what every earlier version had is there, in place and type."""

from __future__ import annotations

from schemas.manifest import COLUMN_TYPES, SCHEMA_VERSION, ManifestRow

VERSION_1 = (
    ("schema_version", "int"),
    ("run_id", "str"),
    ("round", "int"),
    ("unit_id", "str"),
    ("unit_kind", "str"),
    ("parent_unit_id", "str"),
    ("attempt", "str"),
    ("key", "str"),
    ("tar_uri", "str"),
    ("tar_offset", "int"),
    ("tar_size", "int"),
    ("tar_sha256", "str"),
    ("status", "str"),
    ("error_class", "str"),
    ("error_msg", "str"),
    ("source_uri", "str"),
    ("source_shard", "str"),
    ("source_key", "str"),
    ("source_sha256", "str"),
    ("variant", "int"),
    ("caption", "str"),
    ("caption_model", "str"),
    ("creator", "str"),
    ("seed", "int"),
    ("t_start", "int"),
    ("steps", "int"),
    ("guidance", "float"),
    ("scheduler", "str"),
    ("diffusion_base_hash", "str"),
    ("creation_version", "int"),
    ("creation_step", "int"),
    ("head_hash", "str"),
    ("label_kind", "str"),
    ("label_stats", "str"),
    ("quality", "str"),
    ("width", "int"),
    ("height", "int"),
    ("gen_seconds", "float"),
    ("device", "str"),
    ("node_id", "str"),
    ("created_at", "str"),
    ("code_version", "str"),
    ("extra", "str"),
)
VERSION_2 = (*VERSION_1, ("revision", "int"))
VERSION_3 = (
    *VERSION_2,
    ("creator_version", "int"),
    ("creator_hash", "str"),
    ("label_origin", "str"),
)
VERSIONS = {1: VERSION_1, 2: VERSION_2, 3: VERSION_3}
"""Never edit a line of an earlier version: append a new one."""


def test_columns_are_only_ever_added_and_each_addition_raises_the_version() -> None:
    assert max(VERSIONS) == SCHEMA_VERSION
    assert VERSIONS[SCHEMA_VERSION] == tuple(COLUMN_TYPES.items())
    for version in range(2, SCHEMA_VERSION + 1):
        earlier, later = VERSIONS[version - 1], VERSIONS[version]
        assert later[: len(earlier)] == earlier
        assert len(later) > len(earlier)


def test_a_column_that_was_added_has_a_default() -> None:
    first = {name for name, _ in VERSIONS[1]}
    for name in COLUMN_TYPES:
        if name not in first:
            assert isinstance(ManifestRow.__dataclass_fields__[name].default, int | float | str)
