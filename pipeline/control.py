"""The decisions of a generation loop, the same for one process and for a cluster."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from pipeline.capacity import Decision, choose_next_unit
from pipeline.ledger import UnitLedger
from pipeline.pack import commit_failed_unit
from pipeline.result import new_attempt
from pipeline.weights import WeightsWatch
from schemas.errors import UserError, WeightsMismatchError
from storage.manifest_table import ManifestReader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.isolate import Failure
    from schemas.config import RunConfig
    from schemas.unit import Unit
    from storage.filesystem import RunStore

logger = logging.getLogger(__name__)

MOST_TORN_PATHS = 5
"""So many torn manifests are named in events; jobs/status.py names all."""

FATAL_ERRORS = (UserError, WeightsMismatchError)
"""Errors that every unit would meet: the run stops instead of failing unit after unit."""


class GenerationControl:
    """Leases units, settles attempts, tells finished, failed, starved and waiting apart.

    All state comes from storage when it is made. Not safe for use by several threads.

    Args:
        config: The run's configuration.
        store: The run.
        plan: All units of the run.
        pinned_version: Label with this version alone, whatever is published.
        weights_final: Whether no newer version will come; may be set later.

    Attributes:
        is_paused: Whether no unit may be begun; may be set at any time.
    """

    def __init__(
        self,
        config: RunConfig,
        store: RunStore,
        plan: Sequence[Unit],
        *,
        pinned_version: int | None = None,
        weights_final: bool = False,
    ) -> None:
        self._config = config
        self._store = store
        self._reader = ManifestReader(store)
        self._watch = WeightsWatch(store, pinned=pinned_version)
        self._failures_in_a_row = 0
        self._stop_reason = ""
        self.is_paused = False
        self.weights_final = weights_final
        self._newest = self._watch.newest()
        self.ledger = UnitLedger(config, plan, history=self._reader.refresh())

    def refresh(self) -> list[Unit]:
        """Look into storage for new weights and newly committed units; returns the units."""
        self._newest = self._watch.newest()
        return self.ledger.absorb(self._reader.refresh())

    def decide(self) -> Decision:
        """Decide on what storage showed at the last :meth:`refresh`."""
        if self._stop_reason:
            return Decision(kind="failed", reason=self._stop_reason)
        state = self.ledger.state(self._newest, weights_final=self.weights_final)
        decision = choose_next_unit(state, self.ledger.pace)
        if self.is_paused and decision.kind not in {"finished", "failed"}:
            return Decision(kind="paused", reason="paused by jobs/steer.py; --resume goes on")
        return decision

    def lease(self, unit: Unit) -> str:
        """Hand a unit out; returns the attempt's name."""
        return new_attempt(self.ledger.lease(unit))

    def settle(self, unit: Unit, attempt: str, failure: Failure | None = None) -> None:
        """Take a unit back after an attempt.

        Args:
            unit: The unit.
            attempt: The attempt's name.
            failure: Why the attempt failed as a whole; None if it committed, or lost to another.
                After ``generation.max_attempts`` the unit is committed with failed rows.
        """
        self.ledger.release(unit)
        if failure is None:
            self._failures_in_a_row = 0
            return
        logger.warning("attempt_failed unit=%s reason=%s", unit.unit_id, failure.reason)
        self._failures_in_a_row += 1
        if not self.ledger.count_failure(unit):
            commit_failed_unit(
                self._store, self._config, unit, failure=failure, attempt=f"{attempt}-failed"
            )
        limit = 2 * self._config.generation.max_attempts
        if self._failures_in_a_row >= limit:
            self.fail(
                f"{limit} attempts at units failed in a row, the last with {failure.reason}: "
                f"{failure.detail}"
            )

    def take_back(self, unit: Unit) -> None:
        """Take a unit back that was never begun."""
        self.ledger.release(unit)

    def fail(self, reason: str) -> None:
        """Stop: every later decision is ``failed`` with this reason."""
        self._stop_reason = self._stop_reason or reason

    def progress(self) -> dict[str, Any]:
        """Plain figures about the loop, for events and displays."""
        newest = self._newest
        totals = self.ledger.totals
        return {
            "units_planned": self.ledger.num_units,
            "units_committed": totals.units,
            "units_leased": self.ledger.num_leased,
            "samples_ok": totals.statuses["ok"],
            "samples_filtered": totals.statuses["filtered"],
            "samples_failed": totals.statuses["failed"],
            "reasons": dict(totals.reasons.most_common(5)),
            "samples_by_version": {str(v): n for v, n in sorted(totals.versions.items())},
            "newest_version": None if newest is None else newest.version,
            "torn_manifests": self._reader.torn,
            "torn_paths": self._reader.torn_paths[:MOST_TORN_PATHS],
        }
