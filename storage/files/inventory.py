"""What lies in a run directory, with sizes and times; for maintenance, never for reading."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from storage.files.stores import RunStore

_TIME_FIELDS = ("mtime", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True, order=True, slots=True)
class StoredFile:
    """An object of the store.

    Attributes:
        path: Relative to the run, forward slashes.
        size_bytes: Its size.
        modified_at: When it was written, by the store's clock, UTC; None if the store does not say.
    """

    path: str
    size_bytes: int
    modified_at: datetime | None

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]


def list_files(store: RunStore, folder: str) -> list[StoredFile]:
    """All objects below a folder, sorted by path, leftovers with a leading dot too."""
    return sorted(
        StoredFile(path, int(info.get("size") or 0), _modified_at(info))
        for path, info in store.find(folder).items()
    )


def store_clock(store: RunStore) -> datetime:
    """The time now by the store's own clock, which stamps its objects: writes one and removes it.

    Returns:
        UTC; this machine's time if the store does not say when an object was written.
    """
    path = f".clock-{uuid.uuid4().hex}"
    store.write_bytes(path, b"?")
    try:
        info = store.details(path)
    finally:
        store.remove_file(path)
    return _modified_at(info) or datetime.now(UTC)


def _modified_at(info: Mapping[str, Any]) -> datetime | None:
    for name in _TIME_FIELDS:
        value = info.get(name)
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
    return None
