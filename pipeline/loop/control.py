"""The decisions of a generation loop, the same for one process and for a cluster."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.loop.capacity import Decision, choose_next_unit
from pipeline.loop.history import DEADLY, HistoryBook
from pipeline.loop.ledger import UnitLedger
from pipeline.loop.timing import Outage
from pipeline.make.attempt import new_attempt
from pipeline.make.commit import commit_failed_unit
from pipeline.make.isolate import STORE_FAILED, STORE_UNREACHABLE
from schemas.errors import RunFailedError, UserError, WeightsMismatchError
from storage.manifests.table import OutcomeReader
from storage.records.run_lock import RunLock
from storage.records.weights import WeightsWatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.make.attempt import Attempt
    from pipeline.make.isolate import Failure
    from schemas.config import RunConfig
    from schemas.unit import Unit
    from storage.files.stores import RunStore
    from storage.manifests.unit_outcome import UnitOutcome

logger = logging.getLogger(__name__)

MOST_VERSIONS = 20
"""So many versions are told in events, the newest: a long run has thousands."""

MOST_TORN_PATHS = 5
"""So many torn manifests are named in events; jobs/status.py names all."""

FATAL_ERRORS = (UserError, WeightsMismatchError, RunFailedError)
"""Errors that every unit would meet: the run stops instead of failing unit after unit."""


class GenerationControl:
    """Leases units, settles attempts, tells finished, failed, starved and waiting apart.

    All state comes from storage when it is made. Not safe for use by several threads.

    Args:
        pinned_version: Label with this version alone, whatever is published.
        weights_final: Whether no newer version will come than there is now; for later,
            :meth:`expect_no_newer_weights`.
        lock: The driver's hold on the run, looked at before anything is committed here.

    Attributes:
        is_paused: Whether no unit may be begun; may be set at any time.
        is_look_due: Whether storage is known to hold something that :meth:`refresh` has not seen.
    """

    def __init__(
        self,
        config: RunConfig,
        store: RunStore,
        plan: Sequence[Unit],
        *,
        pinned_version: int | None = None,
        weights_final: bool = False,
        lock: RunLock | None = None,
    ) -> None:
        self._config = config
        self._lock = lock or RunLock(store=store)
        self._store = store
        self._reader = OutcomeReader(store)
        self._watch = WeightsWatch(store, pinned=pinned_version)
        self._failures_in_a_row = 0
        self._outage = Outage(limit_s=config.generation.unit_timeout_s)
        self._stop_reason = ""
        self.is_paused = False
        self.is_look_due = False
        self._is_last_look_due = False
        self.weights_final = weights_final
        self._newest = self._watch.newest()
        self.ledger = UnitLedger(config, plan, history=self._reader.refresh())
        self._book = HistoryBook(store)

    def refresh(self, *, quiet_s: float = 0.0) -> list[Unit]:
        """Look into storage for new weights and newly committed units; returns the units.

        Args:
            quiet_s: Least time between two looks where nothing new has been found for long; no
                matter if a look is due.
        """
        is_last = self._is_last_look_due
        self._newest = self._watch.newest()
        quiet_s = 0.0 if self.is_look_due else quiet_s
        found = self._absorb(self._reader.refresh(quiet_s=quiet_s))
        self.is_look_due = False
        self.weights_final = self.weights_final or is_last
        return found

    def expect_no_newer_weights(self) -> None:
        """No version comes any more: final is what the next look finds, not what the last one did.

        May be called by any thread.
        """
        self._is_last_look_due = True
        self.is_look_due = True

    def decide(self) -> Decision:
        """Decide on what storage showed at the last :meth:`refresh`."""
        if self._stop_reason:
            return Decision(kind="failed", reason=self._stop_reason)
        state = self.ledger.state(self._newest, weights_final=self.weights_final)
        decision = choose_next_unit(state, self.ledger.pace)
        if self.is_paused and decision.kind not in {"finished", "failed"}:
            return Decision(kind="paused", reason="paused by jobs/steer.py; --resume goes on")
        return decision

    def lease(self, unit: Unit) -> Attempt:
        """Hand a unit out, with what earlier attempts at it left."""
        number = self.ledger.lease(unit)
        attempt = new_attempt(number, epoch=self._lock.epoch, history=self._book.of(unit))
        self._book.begin(unit, attempt)
        return attempt

    def settle(
        self,
        unit: Unit,
        attempt: Attempt,
        failure: Failure | None = None,
        *,
        outcome: UnitOutcome | None = None,
    ) -> bool:
        """Take a unit back after an attempt.

        Args:
            failure: Why the attempt failed as a whole; None if it committed, or lost to another.
                After ``generation.max_attempts`` the unit is committed with failed rows, unless
                the store is to blame: then it stays open.
            outcome: What the attempt made. Storage has taken the manifest of a committed one, so
                it counts at once and is not read again; what another attempt committed is read.

        Returns:
            Whether the attempt is accounted for: it committed, or it died of a sample that is known
            now. Others are counted against the unit.

        Raises:
            FencedError: If the unit were to be committed and a younger driver holds the run.
        """
        if outcome is not None:
            self._note(unit, outcome)
        self.ledger.release(unit)
        if failure is None:
            self._failures_in_a_row = 0
            self._outage.end()
            return True
        # An attempt that was lost may have committed before.
        self.is_look_due = True
        logger.warning("attempt_failed unit=%s reason=%s", unit.unit_id, failure.reason)
        if failure.reason == STORE_UNREACHABLE:
            self.note_outage(failure.detail)
            return False
        if failure.reason in DEADLY and self._book.note_death(unit, attempt):
            return True
        self._failures_in_a_row += 1
        if failure.reason != STORE_FAILED and not self.ledger.count_failure(unit):
            self._commit_failed(unit, failure, attempt)
        limit = 2 * self._config.generation.max_attempts
        if self._failures_in_a_row >= limit:
            self.fail(
                f"{limit} attempts at units failed in a row, the last with {failure.reason}: "
                f"{failure.detail}"
            )
        return False

    def note_outage(self, detail: str) -> None:
        """Note that the store did not answer: a reason to wait, and in the end to stop the run."""
        logger.warning("store_is_unreachable %s", detail)
        lasted_s = self._outage.note(now_s=time.monotonic())
        if lasted_s > self._outage.limit_s:
            self.fail(f"the store has not answered for {lasted_s:.0f} s: {detail}")

    def _commit_failed(self, unit: Unit, failure: Failure, attempt: Attempt) -> None:
        attempt = replace(attempt, name=f"{attempt.name}-failed")
        try:
            self._lock.expect_held()
            failed = commit_failed_unit(
                self._store, self._config, unit, failure=failure, attempt=attempt
            )
        except OSError as error:
            # The unit stays open, and its next failure leads here again.
            self.note_outage(str(error))
        else:
            self._note(unit, failed)

    def _note(self, unit: Unit, outcome: UnitOutcome) -> None:
        if not outcome.is_committed:
            self.is_look_due = True
            return
        self._reader.skip(unit.unit_id, unit.revision)
        self._absorb([outcome])

    def _absorb(self, commits: Sequence[UnitOutcome]) -> list[Unit]:
        found = self.ledger.absorb(commits)
        for unit in found:
            self._book.forget(unit)
        return found

    def take_back(self, unit: Unit, partial: str = "") -> None:
        """Take a unit back that was never begun, or given back.

        Args:
            partial: File with the images that were made of it; "" if there is none.
        """
        self.ledger.release(unit)
        if partial:
            self._book.note_partial(unit, partial)

    def fail(self, reason: str) -> None:
        """Stop: every later decision is ``failed`` with this reason."""
        self._stop_reason = self._stop_reason or reason

    def progress(self) -> dict[str, Any]:
        """Plain figures about the loop, for events and displays."""
        newest = self._newest
        totals = self.ledger.totals
        newest_versions = sorted(totals.versions.items())[-MOST_VERSIONS:]
        return {
            "units_planned": self.ledger.num_units,
            "units_committed": totals.units,
            "units_leased": self.ledger.num_leased,
            "samples_ok": totals.statuses["ok"],
            "samples_filtered": totals.statuses["filtered"],
            "samples_failed": totals.statuses["failed"],
            "reasons": dict(totals.reasons.most_common(5)),
            "samples_by_version": {str(v): n for v, n in newest_versions},
            "newest_version": None if newest is None else newest.version,
            "torn_manifests": self._reader.torn,
            "torn_paths": self._reader.torn_paths[:MOST_TORN_PATHS],
        }
