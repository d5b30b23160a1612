"""YAML that people write, read as they mean it."""

from __future__ import annotations

import pytest

from schemas.yaml_text import parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0001", "0001"),
        ("0010", "0010"),
        ("0794", "0794"),
        ("2024-05-01", "2024-05-01"),
        ("2024-05-01 12:30:45", "2024-05-01 12:30:45"),
        ("12:30:45", "12:30:45"),
        ("0", 0),
        ("-12", -12),
        ("1_000", 1000),
        ("0x1F", 31),
        ("1.5", 1.5),
        ("1.0e-4", 1e-4),
        (".5", 0.5),
        ("00.5", 0.5),
        ("yes", True),
        ("null", None),
    ],
)
def test_a_plain_value_is_what_people_mean(text, value):
    found = parse_yaml(f"a: {text}")["a"]
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_the_mark_of_the_byte_order_says_the_encoding(encoding):
    assert parse_yaml("name: küche\r\nsize: [6, 6]\r\n".encode(encoding)) == {
        "name": "küche",
        "size": [6, 6],
    }


def test_a_colour_may_be_a_key():
    assert parse_yaml(b"colors: {[128, 64, 128]: 7}") == {"colors": {"128, 64, 128": 7}}
    for other in (b"{[a, b, c]: 1}", b"{[1, 2]: 1}", b"{[[1], 2, 3]: 1}", b"{{a: 1}: 1}"):
        with pytest.raises(ValueError, match="not YAML"):
            parse_yaml(other)
