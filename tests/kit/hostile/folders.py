"""Sources written to disk around one hostile file, and read as a run reads them."""

from __future__ import annotations

import hashlib
import io
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from schemas.config_source import FolderSource as FolderConfig
from schemas.config_source import ShardsSource as ShardsConfig
from schemas.sample import Sample, Task, UnreadableSample
from sources.folder import FolderSource
from sources.prepared import PreparedSource
from tests.kit.hostile.pictures import SIZE_PX, save, two_halves

KEY = "0001"
IMAGE = save(two_halves())

Read = Sample | UnreadableSample


def describe(folder: Path, /, **changes: Any) -> Path:
    """Write the description of a folder."""
    tree = {
        "root": ".",
        "image": "rgb/{key}.png",
        "labels": {},
        "splits": {"train": {"all": True}},
        "size": [SIZE_PX, SIZE_PX],
        **changes,
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), "utf-8")
    return path


def open_folder(description: Path, *tasks: Task) -> FolderSource:
    return FolderSource(FolderConfig(description=str(description)), tasks)


def read_all(source: FolderSource | PreparedSource) -> list[Read]:
    return [sample for shard in source.shards("train") for sample in source.read(shard)]


def read_image(root: Path, data: bytes, name: str = f"{KEY}.png") -> Read:
    """An image among a user's own files."""
    (root / "rgb").mkdir()
    (root / "rgb" / name).write_bytes(data)
    (found,) = read_all(open_folder(describe(root)))
    return found


def read_label(root: Path, data: bytes, task: Task, suffix: str = ".png", **fields: Any) -> Read:
    """A label map among a user's own files, of an image that is good."""
    for part, content, ending in (("rgb", IMAGE, ".png"), ("label", data, suffix)):
        (root / part).mkdir()
        (root / part / f"{KEY}{ending}").write_bytes(content)
    labels = {task: {"pattern": "label/{key}" + suffix, **fields}}
    (found,) = read_all(open_folder(describe(root, labels=labels), task))
    return found


def read_listed(root: Path, *keys: str, pattern: str = "rgb/{key}.png") -> list[Read]:
    """Images whose keys a list names; each is written where the pattern has it, if that can be."""
    inside = root / "data"
    (inside / "rgb").mkdir(parents=True)
    for key in keys:
        path = inside / pattern.replace("{key}", key)
        with suppress(ValueError, OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(IMAGE)
    (inside / "keys.txt").write_text("\n".join(keys), "utf-8")
    description = describe(inside, image=pattern, splits={"train": {"list": "keys.txt"}})
    return read_all(open_folder(description))


def member(name: str, content: bytes = IMAGE, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A member of a tar; ``fields`` are those of its header."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return buffer.getvalue()


def rows_of(data: bytes, *keys: str, **changes: Any) -> list[dict[str, Any]]:
    """Rows of a manifest that lists keys of one shard."""
    digest = hashlib.sha256(data).hexdigest()
    row = {"split": "train", "shard": "train-000000.tar", "tar_sha256": digest}
    sizes = {"height": SIZE_PX, "width": SIZE_PX}
    return [{**row, **sizes, "key": key, **changes} for key in keys]


def parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def read_shards(root: Path, data: bytes, manifest: bytes | None = None) -> list[Read]:
    """A tar beside its manifest, whose digest is right."""
    (root / "train-000000.tar").write_bytes(data)
    content = parquet(rows_of(data, "a")) if manifest is None else manifest
    (root / "manifest.parquet").write_bytes(content)
    return read_all(PreparedSource(ShardsConfig(root=str(root), validation_fraction=0.0), []))
