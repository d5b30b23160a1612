"""Hostile tars, shard manifests and JSON members, with the outcome of each."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path
from typing import Any

from schemas.errors import DamagedShardError, SourceError
from schemas.sample import Sample, UnreadableSample
from sources.streams import decode_tar
from tests.kit.hostile.folders import KEY, member, parquet, read_shards, rows_of, tar
from tests.kit.hostile.outcomes import PICKLE, Accepted, Item, Refused, Row

GOOD = tar(member("a.image.png"), member("a.json", b'{"caption": "good"}'))


def shard(name: str, data: bytes, outcome: Any) -> Item:
    return Item(f"tar: {name}", lambda folder: _only(read_shards(folder, data)), outcome)


def listed(name: str, outcome: Any, rows: list[dict[str, Any]], data: bytes = GOOD) -> Item:
    def read(folder: Path) -> Any:
        return read_shards(folder, data, parquet(rows))

    return Item(f"shard manifest: {name}", read, outcome)


def manifest(name: str, content: bytes, outcome: Any) -> Item:
    def read(folder: Path) -> Any:
        return read_shards(folder, GOOD, content)

    return Item(f"shard manifest: {name}", read, outcome)


def document(name: str, data: bytes, outcome: Any) -> Item:
    return shard(f"JSON: {name}", tar(member("a.image.png"), member("a.json", data)), outcome)


def live(name: str, data: bytes, message: str) -> Item:
    """A shard of a run whose manifest has its digest, as the trainer reads it."""

    def read(folder: Path) -> Any:
        return list(decode_tar(data, str(folder)))

    return Item(f"live tar: {name}", read, Refused(DamagedShardError, message))


def _only(found: list[Any]) -> Any:
    (one,) = found
    return one


def _patched(data: bytes, start: int, content: bytes) -> bytes:
    """A tar whose first header holds other bytes, with a checksum that fits."""
    block = bytearray(data[:512])
    block[start : start + len(content)] = content
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block) + data[512:]


def _pax(**headers: str) -> bytes:
    info, content = member("a.image.png")
    info.pax_headers = headers
    return tar((info, content))


def _read_as(key: str) -> Accepted:
    def check(found: Any) -> bool:
        assert isinstance(found, Sample), found
        return found.key == key

    return Accepted(check)


def _link(kind: bytes, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member("a.image.png", b"", type=kind, linkname=target)


SIZE = 124
SECRET = "/etc/passwd"
NO_FILE = Refused(SourceError, "wanted plain files")
TORN = Refused(SourceError, "fetch or write it again")
FOREIGN = ("pkl", "pickle", "pyd", "pt", "pth", "npy", "npz", "mp4", "exe", "../x.py")

TARS = [
    shard("plain", GOOD, Accepted(lambda one: one.caption == "good")),
    *(
        shard(
            f"a pickle as .{suffix}",
            tar(member("a.image.png"), member(f"a.{suffix}", PICKLE)),
            _read_as("a"),
        )
        for suffix in FOREIGN[:-1]
    ),
    shard("a pickle as image", tar(member("a.image.png", PICKLE)), Row("decode_failed")),
    shard(
        "a pickle as the JSON",
        tar(member("a.image.png"), member("a.json", PICKLE)),
        Row("json_invalid"),
    ),
    shard("symbolic link out", tar(_link(tarfile.SYMTYPE, SECRET)), NO_FILE),
    shard("symbolic link to itself", tar(_link(tarfile.SYMTYPE, "a.image.png")), NO_FILE),
    shard("symbolic link up", tar(_link(tarfile.SYMTYPE, "../../x")), NO_FILE),
    shard("hard link out", tar(_link(tarfile.LNKTYPE, SECRET)), NO_FILE),
    shard("hard link to itself", tar(_link(tarfile.LNKTYPE, "a.image.png")), NO_FILE),
    shard("character device", tar(_link(tarfile.CHRTYPE, "")), NO_FILE),
    shard("block device", tar(_link(tarfile.BLKTYPE, "")), NO_FILE),
    shard("pipe", tar(_link(tarfile.FIFOTYPE, "")), NO_FILE),
    shard("unknown kind", tar(member("a.image.png", type=b"Z")), NO_FILE),
    shard(
        "folder beside it",
        tar(member("./", b"", type=tarfile.DIRTYPE), member("./a.image.png")),
        _read_as("a"),
    ),
    shard("absolute path", tar(member("/etc/a.image.png")), Refused(SourceError, "absolute")),
    shard("path up", tar(member("../a.image.png")), Refused(SourceError, r"'\.\.'")),
    shard("path up and down", tar(member("b/../a.image.png")), Refused(SourceError, r"'\.\.'")),
    shard(
        "member twice",
        tar(member("a.image.png"), member("a.image.png")),
        Refused(SourceError, "each once"),
    ),
    shard(
        "key again later",
        tar(member("a.image.png"), member("b.image.png"), member("a.json", b"{}")),
        Refused(SourceError, "together"),
    ),
    shard(
        "name of 3000 signs",
        tar(member("k" * 3000 + ".json", b"{}"), member("a.image.png")),
        _read_as("a"),
    ),
    shard(
        "GNU name of 3000 signs",
        tar(member("k" * 3000 + ".json", b"{}"), member("a.image.png"), form=tarfile.GNU_FORMAT),
        _read_as("a"),
    ),
    shard(
        "GNU name that leads up",
        tar(member("../" + "k" * 200 + ".json", b"{}"), form=tarfile.GNU_FORMAT),
        Refused(SourceError, r"'\.\.'"),
    ),
    shard("sparse terabyte", _patched(_patched(GOOD, 156, b"S"), 483, b"77777777777\0"), NO_FILE),
    shard("size below zero", _patched(GOOD, SIZE, b"\xff" * 12), TORN),
    shard("size beyond the end", _patched(GOOD, SIZE, b"77777777777\0"), TORN),
    shard("size of 2^80", _patched(GOOD, SIZE, b"\x80" + b"\x01" + bytes(10)), TORN),
    shard("pax size below zero", _pax(size="-512"), TORN),
    shard("pax size of many digits", _pax(size="9" * 5000), TORN),
    shard("pax size that is none", _pax(size="many"), TORN),
    shard("pax path up", _pax(path="../x.png"), Refused(SourceError, r"'\.\.'")),
    shard("pax sparse map", _pax(**{"GNU.sparse.major": "1", "GNU.sparse.name": "x"}), NO_FILE),
    shard("cut in a header", GOOD[:300], TORN),
    shard("cut in a member", GOOD[:600], TORN),
    shard("no end mark", GOOD[: -len(GOOD) % 512 or -10240].rstrip(b"\0"), TORN),
    shard("empty file", b"", TORN),
    shard("only zeros", bytes(10240), Row("key_missing")),
    shard("gzip of a tar", gzip.compress(GOOD), TORN),
    shard("gzip bomb", gzip.compress(bytes(64 << 20)) + bytes(1024), TORN),
    shard("noise", bytes(range(256)) * 40 + bytes(1024), TORN),
    shard("key with a zero byte", tar(member("a\0b.image.png")), Row("member_missing")),
    document("empty", b"", Row("json_invalid")),
    document("a list", b"[1]", Row("json_invalid", "wanted an object")),
    document("100 000 brackets", b"[" * 100_000, Row("json_invalid")),
    document("100 000 objects", b'{"a":' * 100_000, Row("json_invalid")),
    document("a number of 100 000 digits", b'{"a": ' + b"9" * 100_000 + b"}", Row("json_invalid")),
    document("NaN", b'{"a": NaN}', Row("json_invalid")),
    document("infinite", b'{"a": -Infinity}', Row("json_invalid")),
    document("not UTF-8", b'{"caption": "caf\xe9"}', Row("json_invalid")),
    document("16 MB of text", json.dumps({"a": "x" * (16 << 20)}).encode(), Row("json_invalid")),
    document("a caption that is no text", b'{"caption": {"a": 1}}', Row("json_invalid")),
    document("lone surrogate", b'{"caption": "\\ud800"}', Row("json_invalid")),
    document("fields of its own", b'{"__class__": "x", "key": "../b"}', _read_as("a")),
]

LIVE = [
    live("gzip bomb", gzip.compress(bytes(64 << 20)) + bytes(1024), "fetch or write it again"),
    live("link out", tar(_link(tarfile.SYMTYPE, SECRET)), "wanted plain files"),
    live("member twice", tar(member("a.image.png"), member("a.image.png")), "each once"),
]

ROW = rows_of(GOOD, "a")[0]

SHARD_MANIFESTS = [
    manifest("empty", b"", Refused(SourceError, "wanted Parquet")),
    manifest("a pickle", PICKLE, Refused(SourceError, "wanted Parquet")),
    manifest("torn", parquet([ROW])[:-30], Refused(SourceError, "wanted Parquet")),
    manifest(
        "torn in the middle",
        parquet([ROW])[:90] + b"\xff" * 200 + parquet([ROW])[290:],
        Refused(SourceError, "wanted Parquet|wanted rows"),
    ),
    listed("no rows of its columns", Refused(SourceError, "wanted rows with columns"), [{"a": 1}]),
    listed("keys that are numbers", Refused(SourceError, "key"), [{**ROW, "key": 7}]),
    listed("keys that are missing", Refused(SourceError, "key"), [{**ROW, "key": None}, ROW]),
    listed("a list for a split", Refused(SourceError, "split"), [{**ROW, "split": ["train"]}]),
    listed("sizes that are texts", Refused(SourceError, "height"), [{**ROW, "height": "16"}]),
    listed("sizes below zero", Refused(SourceError, "height"), [{**ROW, "height": -16}]),
    listed("sizes beyond all", Refused(SourceError, "height"), [{**ROW, "height": 2**62}]),
    listed("a key twice", Refused(SourceError, "'a'.*twice"), [ROW, ROW]),
    listed(
        "a key in two splits", Refused(SourceError, "'a'.*twice"), [ROW, {**ROW, "split": "test"}]
    ),
    listed("a key with a slash", Refused(SourceError, "'b/a'"), [{**ROW, "key": "b/a"}]),
    listed("a key with a dot", Refused(SourceError, r"'a\.b'"), [{**ROW, "key": "a.b"}]),
    listed(
        "a key that is not there",
        Accepted(
            lambda found: (
                isinstance(found[0], UnreadableSample) and found[0].reason == "key_missing"
            )
        ),
        [{**ROW, "key": KEY}],
    ),
    listed(
        "a shard out of the folder", Refused(SourceError, "shard"), [{**ROW, "shard": "../x.tar"}]
    ),
    listed("an absolute shard", Refused(SourceError, "shard"), [{**ROW, "shard": SECRET}]),
    listed(
        "a shard on the network",
        Refused(SourceError, "shard"),
        [{**ROW, "shard": "http://127.0.0.1:9/x.tar"}],
    ),
    listed(
        "a wrong digest", Refused(SourceError, "wanted sha256"), [{**ROW, "tar_sha256": "0" * 64}]
    ),
    listed("no digest", Refused(SourceError, "tar_sha256"), [{**ROW, "tar_sha256": None}]),
    listed(
        "a shard that is missing", Refused(SourceError, "found none"), [{**ROW, "shard": "no.tar"}]
    ),
]
