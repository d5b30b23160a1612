"""Hostile keys, captions and descriptions of a user's folder, with the outcome of each."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from schemas.errors import SourceError
from schemas.sample import CAPTION_ERROR, Sample
from tests.kit.hostile.folders import IMAGE, describe, open_folder, read_all, read_listed
from tests.kit.hostile.outcomes import Accepted, Item, Refused, Row

OUTSIDE = Refused(SourceError, "leads out of")


def keys(name: str, *names: str, outcome: Any, pattern: str = "rgb/{key}.png") -> Item:
    def read(folder: Path) -> Any:
        return read_listed(folder, *names, pattern=pattern)

    return Item(f"keys: {name}", read, outcome)


def become(*wanted: str) -> Accepted:
    """All read, under these keys."""

    def check(found: list[Any]) -> bool:
        assert all(isinstance(one, Sample) for one in found), found
        assert [one.key for one in found] == list(wanted)
        return True

    return Accepted(check)


def without_caption(why: str) -> Accepted:
    """Read with its labels; the caption is empty and the reason is kept."""

    def check(found: Any) -> bool:
        return found.caption == "" and re.search(why, found.meta[CAPTION_ERROR]) is not None

    return Accepted(check)


def described(name: str, outcome: Any, **changes: Any) -> Item:
    def read(folder: Path) -> Any:
        (folder / "rgb").mkdir()
        (folder / "rgb/0001.png").write_bytes(IMAGE)
        return read_all(open_folder(describe(folder, **changes)))

    return Item(f"description: {name}", read, outcome)


def captioned(name: str, data: bytes, outcome: Any) -> Item:
    def read(folder: Path) -> Any:
        (folder / "rgb").mkdir()
        (folder / "rgb/0001.png").write_bytes(IMAGE)
        (folder / "rgb/0001.txt").write_bytes(data)
        (found,) = read_all(open_folder(describe(folder, caption="rgb/{key}.txt")))
        return found

    return Item(f"caption: {name}", read, outcome)


def raw(name: str, data: bytes, outcome: Any) -> Item:
    def read(folder: Path) -> Any:
        (folder / "mine.yaml").write_bytes(data)
        return open_folder(folder / "mine.yaml")

    return Item(f"description: {name}", read, outcome)


def _pipe(folder: Path) -> Any:
    (folder / "rgb").mkdir()
    os.mkfifo(folder / "rgb/0001.png")
    return read_all(open_folder(describe(folder)))


def _image_is_a_folder(folder: Path) -> Any:
    (folder / "rgb/0001.png").mkdir(parents=True)
    return read_all(open_folder(describe(folder)))


def _sparse_image(folder: Path) -> Any:
    (folder / "rgb").mkdir()
    with (folder / "rgb/0001.png").open("wb") as file:
        file.truncate(1 << 40)
    (found,) = read_all(open_folder(describe(folder)))
    return found


def _list_in_another_encoding(folder: Path) -> Any:
    (folder / "keys.txt").write_bytes(b"caf\xe9\n")
    return open_folder(describe(folder, splits={"train": {"list": "keys.txt"}}))


LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)

FOLDERS = [
    keys("dots become underscores", "a.b", "c.d.e", outcome=become("a_b", "c_d_e")),
    keys("slashes become underscores", "a/b", outcome=become("a_b")),
    keys("two that would be one", "a.b", "a_b", outcome=Refused(SourceError, "rename one")),
    keys("dots and slashes", "a/b", "a.b", outcome=Refused(SourceError, "rename one")),
    keys("one level up", "../../secret", outcome=OUTSIDE),
    keys("up in the middle", "a/../../../secret", outcome=OUTSIDE),
    keys("absolute", "/tmp/hostile-absolute", outcome=OUTSIDE, pattern="{key}"),
    keys("only dots", "..", outcome=OUTSIDE, pattern="{key}"),
    keys("a zero byte", "a\0b", outcome=Refused(SourceError, "missing")),
    keys("unicode", "café", "部屋", outcome=become("café", "部屋")),
    keys("composed and decomposed", "é", "e\u0301", outcome=Refused(SourceError, "more than once")),
    keys("decomposed", "e\u0301", outcome=become("é")),
    keys("right to left", "a\u202egnp", "אב", outcome=become("a_gnp", "אב")),
    keys("invisible joiners", "a\u200db", "a\ufeffb", outcome=Refused(SourceError, "rename one")),
    keys("200 signs", "k" * 200, outcome=become("k" * 200)),
    keys("longer than a path may be", "k" * 5000, outcome=Refused(SourceError, "missing")),
    keys("backslashes", "a\\b", outcome=become("a_b")),
    keys("a shell command", "$(touch x)`;|&", outcome=become("__touch_x_____")),
    keys("a pattern", "[a-z]*", outcome=become("_a-z__")),
    keys("twice", "a", "a", outcome=Refused(SourceError, "more than once")),
    Item(
        "keys: a list in another encoding",
        _list_in_another_encoding,
        Refused(SourceError, "keys.txt.*UTF-8"),
    ),
    Item("image: a pipe", _pipe, Refused(SourceError, "no key found.* 1 name of no plain file")),
    Item(
        "image: a folder",
        _image_is_a_folder,
        Refused(SourceError, "no key found.* 1 name of no plain"),
    ),
    Item("image: a terabyte of nothing", _sparse_image, Row("too_large")),
    captioned("in another encoding", b"caf\xe9", without_caption("wanted UTF-8")),
    captioned("of 100 MB", b"word " * (20 << 20), without_caption("wanted at most")),
    captioned("control signs", b"a\0b\x1b[31m", without_caption("U\\+0000")),
    captioned("plain", " a röom \n".encode(), Accepted(lambda one: one.caption == "a röom")),
    described("pattern without the key", Refused(SourceError, "has to hold"), image="rgb/0001.png"),
    described("pattern out of the root", OUTSIDE, image="../../{key}.png"),
    described("absolute pattern", OUTSIDE, image="/etc/{key}"),
    described(
        "a pattern of everything", Refused(SourceError, "no key found"), image="**/{key}.png"
    ),
    described("root that is a file", Refused(SourceError, "is no folder"), root="mine.yaml"),
    described("root with a zero byte", Refused(SourceError, "is no folder"), root="a\0b"),
    described(
        "a range of a trillion",
        Refused(SourceError, "splits.train.range"),
        splits={"train": {"range": [0, 10**12]}},
    ),
    described(
        "numbers of a billion digits",
        Refused(SourceError, "splits.train.digits"),
        splits={"train": {"range": [0, 1], "digits": 10**9}},
    ),
    described(
        "negative range", Refused(SourceError, "missing"), splits={"train": {"range": [-3, -1]}}
    ),
    described("images of a petapixel", Refused(SourceError, "size"), size=[2**25, 2**25]),
    described("unknown field", Refused(SourceError, "unknown field"), labelz={}),
    described("list out of the root", OUTSIDE, splits={"train": {"list": "../../../etc/passwd"}}),
    raw("empty", b"", Refused(SourceError, "wanted fields")),
    raw("not UTF-8", b"root: caf\xe9\n", Refused(SourceError, "UTF-8")),
    raw("aliases that multiply", LAUGHS.encode(), Refused(SourceError, "aliases")),
    raw("a Python object", b"!!python/object/apply:os.abort []", Refused(SourceError, "not YAML")),
]
