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


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_its_mark_is_read(encoding):
    assert parse_yaml("name: küche\nsize: [6, 6]\n".encode(encoding)) == {
        "name": "küche",
        "size": [6, 6],
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a:\n  unit: mm\n  x: 1\n  unit: cm\n", "'unit' is given twice, in line 2 and line 4"),
        ("a: 1\n'a': 2\n", "'a' is given twice, in line 1 and line 2"),
        ("a: {1: 2, 1: 3}", "'1' is given twice"),
    ],
)
def test_a_key_that_is_given_twice_is_refused_with_both_lines(text, said):
    with pytest.raises(ValueError, match=said):
        parse_yaml(text)


def test_merged_keys_may_be_given_anew():
    text = "a: {b: &x {<<: &y {k: 0}, k: 1}}\nc: {<<: *x, k: 2}\n"
    assert parse_yaml(text) == {"a": {"b": {"k": 1}}, "c": {"k": 2}}


def test_a_key_that_looks_like_a_switch_is_the_text():
    assert parse_yaml("{on: 1, no: 2, Yes: 3}") == {"on": 1, "no": 2, "Yes": 3}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a: 1\n\tb: 2\n", "line 2: a tab; YAML wants blanks"),
        (b"a: 1\n---\nb: 2\n", "line 2: a second document begins; keep one"),
        (b"a: !foo 1\n", "line 1: the tag '!foo'; leave it out"),
        (b"a: 1\nb: \x00\n", r"line 2: the sign U\+0000"),
        (b"\xff\xd8\xff\xe0 a picture", "found a JPEG picture"),
        ("name: küche".encode("latin-1"), "save it as UTF-8"),
    ],
)
def test_what_is_wrong_is_said_in_words_without_a_hint_on_braces(data, said):
    with pytest.raises(ValueError, match=said) as caught:
        parse_yaml(data)
    assert "braces" not in str(caught.value)


@pytest.mark.parametrize("text", ["image: {key}.jpg\n", "depth: {pattern: depth/{key}.png}\n"])
def test_braces_that_want_quotes_are_named(text):
    with pytest.raises(ValueError, match=r"line 1: .*patterns with braces need quotes"):
        parse_yaml(text)
