"""Look for the newest published creation weights."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from schemas.errors import DamagedShardError
from storage.records.weights import latest_version, read_manifest, read_weights

if TYPE_CHECKING:
    from schemas.weights import WeightsManifest
    from storage.files.stores import RunStore


logger = logging.getLogger(__name__)


class WeightsWatch:
    """Follows the published versions of a run; one that turns out to be damaged is passed over.

    Args:
        store: The run.
        pinned: Look at this version alone.
    """

    def __init__(self, store: RunStore, *, pinned: int | None = None) -> None:
        self._store = store
        self._pinned = pinned
        self._manifest: WeightsManifest | None = None
        self._damaged: dict[int, DamagedShardError] = {}

    def newest(self) -> WeightsManifest | None:
        """The newest version (or the pinned one) now; None if there is none yet.

        Raises:
            DamagedShardError: If there are versions, and none of them is whole.
        """
        while (version := self.newest_version()) is not None:
            if self._manifest is not None and self._manifest.version == version:
                return self._manifest
            try:
                self._manifest = read_manifest(self._store, version)
            except DamagedShardError as error:
                self._pass_over(version, error)
            else:
                return self._manifest
        self._expect_whole()
        return None

    def newest_version(self) -> int | None:
        """As :meth:`newest`, from a listing alone."""
        if self._pinned is not None:
            return self._pinned
        return latest_version(self._store, leave_out=self._damaged)

    def newer_than(self, held: int | None) -> tuple[WeightsManifest, bytes] | None:
        """The newest whole version: manifest and checked content; None if ``held`` is as new.

        Args:
            held: The version in use; None if there is none. A pinned version is taken whatever
                is held.

        Raises:
            DamagedShardError: If nothing is held, there are versions, and none of them is whole.
        """
        while (version := self.newest_version()) is not None:
            if held is not None and (held == version or (self._pinned is None and held > version)):
                return None
            try:
                return read_weights(self._store, version)
            except DamagedShardError as error:
                self._pass_over(version, error)
        if held is None:
            self._expect_whole()
        return None

    def _pass_over(self, version: int, error: DamagedShardError) -> None:
        if version == self._pinned:
            raise error
        logger.warning("weights_are_passed_over version=%d: %s", version, error)
        self._damaged[version] = error

    def _expect_whole(self) -> None:
        if self._damaged:
            raise self._damaged[max(self._damaged)]
