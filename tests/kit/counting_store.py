"""A store that counts what is asked of it."""

from __future__ import annotations

from collections import Counter

from storage.files.stores import RunStore


class CountingFolders(RunStore):
    """Counts the names of listings by folder, and the objects that are read."""

    def __init__(self, store: RunStore) -> None:
        super().__init__(store.url, store.root)
        object.__setattr__(self, "names", Counter())
        object.__setattr__(self, "reads", Counter())

    def list_dir(self, rel: str) -> list[str]:
        found = super().list_dir(rel)
        self.names[rel] += len(found)
        return found

    def read_bytes(self, rel: str, **options: int | None) -> bytes:
        self.reads[rel] += 1
        return super().read_bytes(rel, **options)
