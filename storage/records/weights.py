"""Published weights: one folder a version, whose manifest is the commit.

Each series has versions of its own, which know nothing of the other's.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypedDict

from schemas.digest import sha256_of
from schemas.errors import AlreadyCommittedError, DamagedShardError, WeightsMismatchError
from schemas.run_layout import (
    SERIES_DIRS,
    collected_weights_path,
    parse_weights_dir,
    weights_dir,
)
from schemas.weights import SERIES, WEIGHTS_FILE, WEIGHTS_MANIFEST, WeightsManifest

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Unpack

    from schemas.weights import Series
    from storage.files.stores import RunStore


logger = logging.getLogger(__name__)


class PublishFacts(TypedDict):
    """What the publisher says about the weights; see :class:`schemas.weights.WeightsManifest`."""

    version: int
    step: int
    seen_images: int
    ema_decay: float
    base_model_hash: str
    keys_hash: str
    stage: str
    parent: int


def publish_weights(
    store: RunStore,
    data: bytes,
    *,
    series: Series = "creation",
    sha256: str = "",
    **facts: Unpack[PublishFacts],
) -> WeightsManifest:
    """Write a version of weights and commit it.

    The weights are written first, the manifest last and only if absent. Publishing the same bytes
    under the same version again is harmless and returns the manifest that is there; it repairs a
    version whose tensors are lost or damaged.

    Args:
        sha256: Its digest, if it is known already.
        facts: Fields of the manifest; digest, size and time are added.

    Raises:
        AlreadyCommittedError: If other weights are committed under this version.
    """
    manifest = WeightsManifest(
        **facts,
        sha256=sha256 or sha256_of(data),
        size_bytes=len(data),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    path = _manifest_path(manifest.version, series)
    if not store.exists(path):
        _write_data(store, manifest, data, series)
        try:
            store.put_if_absent(path, manifest.to_json().encode())
        except AlreadyCommittedError:
            pass
        else:
            return manifest
    committed = read_manifest(store, manifest.version, series=series)
    if committed.sha256 != manifest.sha256:
        raise AlreadyCommittedError(
            f"{store.uri(path)}: version {manifest.version} is committed with sha256 "
            f"{committed.sha256}, not {manifest.sha256}; another trainer publishes to this "
            "run: stop one of them"
        )
    try:
        read_weights(store, manifest.version, series=series)
    except DamagedShardError as error:
        logger.warning("weights_are_mended version=%d: %s", manifest.version, error)
        store.write_bytes(_spare_data_path(manifest, series), data)
    return committed


def list_versions(store: RunStore, *, series: Series = "creation") -> list[int]:
    """Committed versions, rising. One question to the store for each: not for polling."""
    found = _folders(store, series)
    return [version for version in found if store.exists(_manifest_path(version, series))]


def latest_version(
    store: RunStore, *, series: Series = "creation", leave_out: Collection[int] = ()
) -> int | None:
    """Greatest committed version that is not to be left out; None if there is none yet."""
    newest_first = (v for v in reversed(_folders(store, series)) if v not in leave_out)
    return next((v for v in newest_first if store.exists(_manifest_path(v, series))), None)


def read_manifest(store: RunStore, version: int, *, series: Series = "creation") -> WeightsManifest:
    """Read what a committed version says about itself.

    Raises:
        FileNotFoundError: If the version is not committed.
        DamagedShardError: If the manifest cannot be read.
    """
    path = _manifest_path(version, series)
    try:
        manifest = WeightsManifest.from_json(store.read_bytes(path).decode())
        _expect_version(manifest, version)
    except (TypeError, ValueError, RecursionError) as error:
        raise DamagedShardError(
            f"{store.uri(path)}: not a weights manifest ({error}); copy it from a good copy of the "
            "run, or delete the folder to fall back to the version before"
        ) from error
    return manifest


def _expect_version(manifest: WeightsManifest, version: int) -> None:
    if manifest.version != version:
        raise ValueError(f"version {manifest.version} in the folder of version {version}")


def read_weights(
    store: RunStore, version: int, *, series: Series = "creation"
) -> tuple[WeightsManifest, bytes]:
    """Read a committed version and check its digest.

    Returns:
        The manifest and the content of the safetensors file.

    Raises:
        FileNotFoundError: If the version is not committed.
        DamagedShardError: If the bytes are missing or do not match the manifest.
    """
    manifest = read_manifest(store, version, series=series)
    # Under the usual name, or beside another publisher's bytes.
    for path in (_data_path(version, series), _spare_data_path(manifest, series)):
        try:
            data = store.read_bytes(path)
        except FileNotFoundError:
            continue
        if sha256_of(data) == manifest.sha256:
            return manifest, data
    raise DamagedShardError(
        f"{store.uri(weights_dir(version, series))}: no file with sha256 {manifest.sha256}; copy "
        "it from a good copy of the run, or delete the folder to fall back to the version before"
    )


def collect_weights(
    store: RunStore, version: int, paths: Sequence[str], *, series: Series = "creation"
) -> None:
    """Remove a version of weights; what its manifest said stays for those who trace a row.

    The copy of the manifest comes first, then the manifest goes, which ends the version, then the
    tensors.
    """
    manifest = _manifest_path(version, series)
    if manifest in paths:
        # A process before this one may have come as far.
        with suppress(AlreadyCommittedError, FileNotFoundError):
            store.put_if_absent(collected_weights_path(version, series), store.read_bytes(manifest))
    for path in paths:
        store.remove_file(path)


def expect_fits(manifest: WeightsManifest, *, base_model_hash: str, keys_hash: str) -> None:
    """Check that published weights belong to the model that should take them.

    Raises:
        WeightsMismatchError: If the backbone or the tensors' names, shapes or types differ.
    """
    wanted = {"base_model_hash": base_model_hash, "keys_hash": keys_hash}
    for name, value in wanted.items():
        found = getattr(manifest, name)
        if found != value:
            raise WeightsMismatchError(
                f"weights version {manifest.version}: wanted {name} {value}, found {found}; load "
                "them with the configuration of the run that published them"
            )


class WeightsWatch:
    """Follows a series of a run's versions; one that turns out to be damaged is passed over.

    Args:
        pinned: The only version to use; None: the newest.
    """

    def __init__(
        self, store: RunStore, *, series: Series = "creation", pinned: int | None = None
    ) -> None:
        self._store = store
        self._series: Series = series
        self._pinned = pinned
        self._manifest: WeightsManifest | None = None
        self._damaged: dict[int, DamagedShardError] = {}

    @property
    def is_pinned(self) -> bool:
        """Whether it follows nothing, but stays with one version."""
        return self._pinned is not None

    def newest(self) -> WeightsManifest | None:
        """The newest version (or the pinned one) now; None if there is none yet.

        Raises:
            DamagedShardError: If there are versions, and none of them is whole.
        """
        while (version := self.newest_version()) is not None:
            if self._manifest is not None and self._manifest.version == version:
                return self._manifest
            try:
                self._manifest = read_manifest(self._store, version, series=self._series)
            except DamagedShardError as error:
                self._pass_over(version, error)
            else:
                return self._manifest
        self._expect_whole()
        return None

    def newest_version(self) -> int | None:
        """As :meth:`newest`, from a listing, without reading."""
        if self._pinned is not None:
            return self._pinned
        return latest_version(self._store, series=self._series, leave_out=self._damaged)

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
                return read_weights(self._store, version, series=self._series)
            except DamagedShardError as error:
                self._pass_over(version, error)
        if held is None:
            self._expect_whole()
        return None

    def _pass_over(self, version: int, error: DamagedShardError) -> None:
        if version == self._pinned:
            raise error
        logger.warning(
            "weights_are_passed_over series=%s version=%d: %s", self._series, version, error
        )
        self._damaged[version] = error

    def _expect_whole(self) -> None:
        if self._damaged:
            raise self._damaged[max(self._damaged)]


def watch_all(store: RunStore, *, pinned: int | None = None) -> dict[Series, WeightsWatch]:
    """Make a watch for each series.

    Args:
        pinned: The only version of the creation weights to use; None: the newest.
    """
    return {
        series: WeightsWatch(store, series=series, pinned=pinned if series == "creation" else None)
        for series in SERIES
    }


def _write_data(store: RunStore, manifest: WeightsManifest, data: bytes, series: Series) -> None:
    # A publisher that died before its manifest may have left other bytes under the usual name.
    # They are never replaced, for it may be alive and about to commit them: ours go beside them.
    path = _data_path(manifest.version, series)
    try:
        store.put_if_absent(path, data)
    except AlreadyCommittedError:
        if store.read_bytes(path) != data:
            store.write_bytes(_spare_data_path(manifest, series), data)


def _folders(store: RunStore, series: Series) -> list[int]:
    parsed = (parse_weights_dir(name) for name in store.list_dir(SERIES_DIRS[series]))
    return sorted(version for version in parsed if version is not None)


def _manifest_path(version: int, series: Series) -> str:
    return f"{weights_dir(version, series)}/{WEIGHTS_MANIFEST}"


def _data_path(version: int, series: Series) -> str:
    return f"{weights_dir(version, series)}/{WEIGHTS_FILE}"


def _spare_data_path(manifest: WeightsManifest, series: Series) -> str:
    stem, _, suffix = WEIGHTS_FILE.rpartition(".")
    return f"{weights_dir(manifest.version, series)}/{stem}-{manifest.sha256[:16]}.{suffix}"
