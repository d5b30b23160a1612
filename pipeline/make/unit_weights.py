"""Which published weights a unit is to be made with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.errors import DamagedShardError
from storage.manifests.table import read_unit
from storage.records.weights import WeightsWatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from schemas.unit import Unit
    from schemas.weights import Series
    from storage.files.stores import RunStore


def watch_for(
    unit: Unit, series: Series, store: RunStore, watches: Mapping[Series, WeightsWatch]
) -> WeightsWatch:
    """Find what to follow: the newest version, but for the images of a retry.

    A retry makes the images that stand again, for later rounds have labelled them: with the same
    version of the creator's weights, as long as a good sample of the unit names it.

    Args:
        watches: One for each series.
    """
    version = _standing_version(unit, store) if series == "creator" and unit.revision else None
    if version is None:
        return watches[series]
    return WeightsWatch(store, series=series, pinned=version)


def _standing_version(unit: Unit, store: RunStore) -> int | None:
    try:
        rows = read_unit(store, unit.round, unit.unit_id).rows
    except (FileNotFoundError, DamagedShardError):
        return None
    # Only versions that good samples name are sure to be there.
    versions = {row.creator_version for row in rows if row.status == "ok"}
    return max(versions - {-1}, default=None)
