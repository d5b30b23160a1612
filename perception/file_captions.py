"""Captions made elsewhere, in files of the forms that people have."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from perception.shapes import ShapeError
from schemas.errors import ConfigError, SampleError
from schemas.plain_files import read_plain, why_not
from schemas.text import control_sign, decode_text, sample_key, without_format_signs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

MAX_CAPTION_CHARS = 1 << 16

_MAX_BYTES = 1 << 29
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_TABLES = ("metadata.jsonl", "metadata.csv", "metadata.tsv")
_NAME_FIELDS = ("file_name", "filename", "image", "file", "path", "key", "name", "id")
_TEXT_FIELDS = ("text", "caption", "prompt", "description")
_SUFFIX = re.compile(r"[.](jpe?g|jfif|png|webp|tiff?|bmp|gif|avif|hei[cf]|txt)$", re.IGNORECASE)
_FORMS = (
    'write {"<key>": "<text>"}, rows with file_name and text (.csv, .tsv, .jsonl), or a folder of '
    "<key>.txt"
)
_SPLITS = ("train_", "validation_", "test_")


@dataclass(frozen=True, kw_only=True, eq=False)
class FileCaptions:
    """Captions made elsewhere, looked up by sample key or by the name of the image's file.

    Attributes:
        captions: Caption by key or name, as the file has them.
    """

    captions: Mapping[str, str]

    @classmethod
    def load(cls, path: str | Path) -> FileCaptions:
        """Read captions.

        Args:
            path: A JSON file that maps keys or file names to captions; a JSON list, ``.jsonl`` or
                ``.csv`` or ``.tsv`` of rows with ``file_name`` and ``text``; or a folder of
                ``<key>.txt`` files or with such a table that is called ``metadata``.

        Raises:
            ConfigError: If there is no such file or folder, or a caption is not a text in UTF-8.
        """
        path = Path(path).expanduser()
        if not path.exists():
            raise ConfigError(
                f"captions {path.absolute()}: wanted a JSON file or a folder of <key>.txt, found "
                "nothing; make the captions, or choose another captioner"
            )
        texts = _read_folder(path) if path.is_dir() else _read_table(path)
        wrong = [key for key, text in texts.items() if not _is_caption(text)]
        if wrong or not texts:
            raise ConfigError(
                f"captions {path.absolute()}: wanted a text for each key, at most "
                f"{MAX_CAPTION_CHARS} signs without control signs, found "
                f"{f'something else for {wrong[:3]}'[:300] if wrong else 'no captions'}; "
                f"{_FORMS}"
            )
        cleaned = {key: " ".join(without_format_signs(text).split()) for key, text in texts.items()}
        return cls(captions=cleaned)

    @property
    def model_id(self) -> str:
        """``file:`` and a digest of all captions."""
        text = json.dumps(dict(self.captions), sort_keys=True)
        return "file:" + hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def find(self, key: str) -> str | None:
        """The caption of a sample; None if there is none, or several that differ."""
        found = self.captions.get(key)
        if found is None:
            found = self._by_key.get(key)
        if found is None:
            split = next((each for each in _SPLITS if key.startswith(each)), "")
            found = self._by_key.get(key.removeprefix(split))
        return found

    def caption(
        self, images: Sequence[NDArray[np.uint8]], *, keys: Sequence[str] | None = None
    ) -> list[str]:
        """Look captions up; see ``Captioner.caption``.

        Raises:
            ShapeError: If there is not one key per image.
            SampleError: If a key has no caption (reason ``no_caption``).
        """
        if keys is None or len(keys) != len(images):
            found = "none" if keys is None else str(len(keys))
            raise ShapeError(f"captions: wanted {len(images)} keys to look up, found {found}")
        texts = {key: self.find(key) for key in keys}
        missing = [key for key, text in texts.items() if text is None]
        if missing:
            raise SampleError("no_caption", f"the captions file has no entry for {missing[:5]}")
        return [texts[key] or "" for key in keys]

    @cached_property
    def _by_key(self) -> dict[str, str | None]:
        """Caption by the keys that samples of such names may have; None if several differ."""
        found: dict[str, str | None] = {}
        for name, text in self.captions.items():
            for key in _keys_of(name):
                found[key] = text if found.get(key, text) == text else None
        return found


def _keys_of(name: str) -> Iterator[str]:
    """Keys of a sample whose image has this name or path, seen from any folder above it."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    for first in range(len(parts)):
        tail = "/".join(parts[first:])
        yield sample_key(tail)
        yield sample_key(_SUFFIX.sub("", tail))


def _read_folder(folder: Path) -> dict[str, Any]:
    table = next((folder / name for name in _TABLES if (folder / name).is_file()), None)
    if table is not None:
        return _read_table(table)
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".txt")
    return {
        file.stem: _read_text(file, 4 * MAX_CAPTION_CHARS)
        for file in files
        if file.is_file() and not file.name.startswith(".")
    }


def _read_table(path: Path) -> dict[str, Any]:
    """Captions of one file by key or name.

    Raises:
        ConfigError: If it is none of the forms that are read.
    """
    text = _read_text(path, _MAX_BYTES)
    if (suffix := path.suffix.lower()) in _DELIMITERS:
        rows = csv.DictReader(text.splitlines(keepends=True), delimiter=_DELIMITERS[suffix])
        try:
            return dict(_row(row, path) for row in rows)
        except csv.Error as error:
            raise ConfigError(f"{path}: wanted rows, found {error}; export it again") from error
    if suffix == ".jsonl":
        lines = (line for line in text.splitlines() if line.strip())
        return dict(_row(_parse(line, path), path) for line in lines)
    content = _parse(text, path)
    if isinstance(content, list) and content:
        return dict(_row(row, path) for row in content)
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: wanted a JSON object, found {type(content).__name__}")
    return {key: _text_in(value) for key, value in content.items()}


def _row(row: Any, path: Path) -> tuple[str, Any]:
    """Name and caption of a row.

    Raises:
        ConfigError: If it lacks one.
    """
    fields = row if isinstance(row, dict) else {}
    name = next((fields[field] for field in _NAME_FIELDS if fields.get(field)), None)
    text = _text_in(fields)
    if not isinstance(name, str | int) or not isinstance(text, str):
        raise ConfigError(
            f"{path}: wanted rows with file_name and text, found {row!r:.200}; name the columns so"
        )
    return str(name), text


def _text_in(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return next((value[field] for field in _TEXT_FIELDS if value.get(field) is not None), value)


def _parse(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path}: wanted JSON, found text that is none ({error}); {_FORMS}"
        ) from error


def _read_text(path: Path, most_bytes: int) -> str:
    """The text of a file.

    Raises:
        ConfigError: If it cannot be read, is no UTF-8, or too large.
    """
    try:
        if path.stat().st_size > most_bytes:
            raise ConfigError(f"{path}: wanted a caption, found {path.stat().st_size} bytes")
        return decode_text(read_plain(path))
    except UnicodeDecodeError as error:
        wanted = "UTF-8" if most_bytes < _MAX_BYTES else "JSON or rows in UTF-8"
        raise ConfigError(
            f"{path}: wanted {wanted}, found {error}; convert the captions (iconv -t UTF-8)"
        ) from error
    except OSError as error:
        raise ConfigError(f"captions {path}: {why_not(error)}") from error


def _is_caption(text: Any) -> bool:
    return isinstance(text, str) and len(text) <= MAX_CAPTION_CHARS and not control_sign(text)
