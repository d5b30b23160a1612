"""Look for the newest published creation weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.weights_store import latest_version, read_manifest, read_weights

if TYPE_CHECKING:
    from schemas.weights import WeightsManifest
    from storage.filesystem import RunStore


class WeightsWatch:
    """Follows the published versions of a run.

    Args:
        store: The run.
        pinned: Look at this version alone.
    """

    def __init__(self, store: RunStore, *, pinned: int | None = None) -> None:
        self._store = store
        self._pinned = pinned
        self._manifest: WeightsManifest | None = None

    def newest(self) -> WeightsManifest | None:
        """The newest version (or the pinned one) now; None if there is none yet."""
        version = self.newest_version()
        if version is None:
            return None
        if self._manifest is None or self._manifest.version != version:
            self._manifest = read_manifest(self._store, version)
        return self._manifest

    def newest_version(self) -> int | None:
        """As :meth:`newest`, from a listing alone."""
        return latest_version(self._store) if self._pinned is None else self._pinned

    def load(self, version: int) -> bytes:
        """Content of a version's safetensors file, its digest checked.

        Raises:
            FileNotFoundError: If it is not published.
            DamagedShardError: If its bytes do not match its manifest.
        """
        return read_weights(self._store, version)[1]
