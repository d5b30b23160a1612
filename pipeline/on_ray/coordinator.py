"""The generation loop on Ray: hands units to generator actors until the plan is done."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import ray

from pipeline.loop.capacity import Decision
from pipeline.loop.control import GenerationControl
from pipeline.loop.plan import make_plan
from pipeline.loop.timing import Meter
from pipeline.make.drain import GivenBack
from pipeline.on_ray.compaction import Compaction
from pipeline.on_ray.fleet import Fleet
from pipeline.on_ray.generator import AttemptFailure
from pipeline.on_ray.registry import start_registry
from pipeline.on_ray.workers import WorkerPool
from schemas.errors import RunFailedError
from schemas.events import Event
from sources.open import open_run_source
from storage.files.stores import open_store
from storage.records.events import EventWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.on_ray.generator import GeneratorStarter
    from pipeline.on_ray.leases import Return
    from schemas.config import RunConfig
    from schemas.unit import Unit
    from storage.records.run_lock import RunLock

logger = logging.getLogger(__name__)

TURN_S = 0.25
TURN_SHARE = 0.1
REFRESH_S = 2.0
REFRESH_SHARE = 0.1
LONGEST_REFRESH_S = 20.0
QUIET_S = 60.0
REPORT_S = 5.0


class GenerationLoop:
    """Runs a plan on generator actors, in a thread of the driver.

    Everything it knows is rebuilt from storage when it is made, so a run goes on after any crash.
    The caller has connected to Ray and captioned the source, and stops the loop at the end.

    Args:
        store_url: The run directory; ``run.url`` if None.
        plan: Units to make; the whole plan of the configuration if None.
        weights_final: Whether no newer version than the newest there is will come.
        lock: The driver's hold on the run; None if it took none.
        starter: Starts and ends generators; actors of Ray if None.
        compaction: Compacts manifests; as often as they fill a file if None.
    """

    def __init__(
        self,
        config: RunConfig,
        store_url: str | None = None,
        *,
        plan: Sequence[Unit] | None = None,
        pinned_version: int | None = None,
        weights_final: bool = False,
        lock: RunLock | None = None,
        starter: GeneratorStarter | None = None,
        compaction: Compaction | None = None,
    ) -> None:
        store = open_store(store_url or config.run.url)
        run = config.run.model_copy(update={"url": store.url})
        self._config = config.model_copy(update={"run": run})
        if plan is None:
            plan = make_plan(self._config, open_run_source(self._config).shards("train"))
        self._control = GenerationControl(
            self._config,
            store,
            plan,
            pinned_version=pinned_version,
            weights_final=weights_final,
            lock=lock,
        )
        self._pool = WorkerPool(self._config, pinned_version=pinned_version, starter=starter)
        self._compaction = compaction or Compaction(self._config)
        self._meter = Meter()
        self._epoch = lock.epoch if lock else 0
        self._events = EventWriter(store, "generation", epoch=self._epoch)
        self._fleet = Fleet(self._pool, store, self._events)
        self._decision = Decision(kind="waiting", reason="not started")
        self._refresh_at = self._reported_at = self._looked_at = float("-inf")
        self._is_informed = True
        self._turn_s = 0.0
        self._registry: Any = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._lock = threading.RLock()

    @property
    def state(self) -> str:
        """State of the generation.

        ``lease`` and ``waiting`` while units are made, ``draining`` while a generator that has to
        go finishes its unit, ``starved``, ``paused``, ``finished`` or ``failed``.
        """
        kind = self._decision.kind
        is_going_on = kind in {"lease", "waiting", "starved"}
        return "draining" if is_going_on and self._pool.num_draining else kind

    @property
    def reason(self) -> str:
        """Why it is in that state."""
        return self._decision.reason

    @property
    def actors(self) -> dict[str, Any]:
        """Handles of the generator actors by name."""
        with self._lock:
            return self._pool.actors

    def start(self, *, num_generators: int | None = None) -> None:
        """Start registry and generators, and the thread that runs the loop.

        Args:
            num_generators: How many; ``generation.num_generators`` if None.
        """
        self._registry = start_registry(self._config, epoch=self._epoch)
        for _ in range(num_generators or self._config.generation.num_generators):
            self.add_generator()
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def add_generator(self) -> str:
        """Start one more generator, at any time; returns its name."""
        with self._lock:
            name = self._pool.add()
        self._events.emit(Event.GENERATOR_STARTED, generator=name)
        return name

    def expect_no_newer_weights(self) -> None:
        """From now on, end with what can be made from the weights there are."""
        self._control.expect_no_newer_weights()

    def join(self, timeout_s: float | None = None) -> str:
        """Wait until all that can be made is committed; no newer weights are expected any more.

        Args:
            timeout_s: Longest wait in seconds; None for no limit.

        Returns:
            The state: ``finished``, or another one after ``timeout_s``.

        Raises:
            RunFailedError: If the loop failed.
        """
        self.expect_no_newer_weights()
        if self._thread is not None:
            self._thread.join(timeout_s)
        if self.state == "failed":
            raise RunFailedError(f"generation stopped: {self.reason}")
        return self.state

    def stop(self, timeout_s: float = 20.0) -> None:
        """Hand nothing more out, let units in the making come to an end, stop the actors.

        A unit that is not committed after ``timeout_s`` seconds is made anew by the next run;
        nothing is ever committed in part.
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            self._pool.close(timeout_s)
            self._compaction.stop()
            if self._registry is not None:
                ray.kill(self._registry)
            self._registry = None
            self._control.is_look_due = True
            self._note_committed()
        self._report()

    def gauges(self) -> dict[str, Any]:
        """Plain figures about the loop now, for displays and events."""
        with self._lock:
            progress = self._control.progress()
            return {
                **progress,
                "units": f"{progress['units_committed']} / {progress['units_planned']}",
                "generators": len(self._pool),
                "generators_ready": self._pool.num_ready,
                "generators_draining": self._pool.num_draining,
                "images_per_s": self._meter.samples_per_s(now_s=time.monotonic()),
                "busy_share": self._meter.busy_share(),
                "state": self.state,
                "reason": self.reason,
            }

    def step(self, wait_s: float = TURN_S) -> Decision:
        """Do one turn: take back what has come, look into storage, hand out what may be made.

        Args:
            wait_s: Longest wait for something to come back, in seconds.
        """
        self._pool.wait(wait_s)
        # A turn looks at every generator: many results share one. Each generator holds a second
        # unit, so none idles meanwhile.
        time.sleep(min(self._turn_s / TURN_SHARE, TURN_S))
        begun_s = time.monotonic()
        with self._lock:
            returned = self._pool.collect()
            for back in returned:
                self._settle(back)
            if time.monotonic() - self._looked_at > REFRESH_S:
                self._look_around()
            if self._control.is_look_due or time.monotonic() > self._refresh_at:
                self._note_committed()
            self._decision = self._hand_out() if self._is_informed else self._wait_for_store()
        if time.monotonic() - self._reported_at > REPORT_S:
            self._report()
        self._turn_s = time.monotonic() - begun_s
        return self._decision

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                if self.step().kind in {"finished", "failed"}:
                    break
        except Exception as error:
            # What ends this thread must be seen by those who wait for it.
            logger.exception("generation_loop_broke")
            self._control.fail(str(error) or type(error).__name__)
            self._decision = self._control.decide()
        self._report()

    def _settle(self, back: Return) -> None:
        outcome = back.outcome
        if outcome is None or isinstance(outcome, GivenBack):
            outcome = outcome or GivenBack(done=0, total=back.unit.num_samples)
            self._control.take_back(back.unit, outcome.partial)
            self._events.emit(
                Event.UNIT_GIVEN_BACK,
                unit=back.unit.unit_id,
                attempt=back.attempt.name,
                generator=back.generator,
                samples_done=outcome.done,
                samples_kept=outcome.kept,
            )
            return
        if isinstance(outcome, AttemptFailure):
            self._events.emit(
                Event.ATTEMPT_FAILED,
                unit=back.unit.unit_id,
                attempt=back.attempt.name,
                generator=back.generator,
                reason=outcome.failure.reason,
                detail=outcome.failure.detail,
            )
            if outcome.is_fatal:
                self._control.take_back(back.unit)
                self._control.fail(outcome.failure.detail)
            elif self._control.settle(back.unit, back.attempt, outcome.failure):
                self._pool.forgive(back.generator)
            return
        self._control.settle(back.unit, back.attempt, outcome=outcome)
        self._meter.finish(
            back.generator,
            samples=outcome.num_samples,
            busy_s=outcome.seconds.get("all", 0.0),
            now_s=time.monotonic(),
        )
        self._events.emit(
            Event.UNIT_DONE,
            unit=back.unit.unit_id,
            generator=back.generator,
            **outcome.summary(),
            is_committed=outcome.is_committed,
        )

    def _hand_out(self) -> Decision:
        """Hand out units while there is room; returns why there is no more to hand out."""
        while True:
            decision = self._control.decide()
            if decision.unit is None or not self._pool.has_room():
                return decision
            unit = decision.unit
            attempt = self._control.lease(unit)
            generator = self._pool.hand_out(unit, attempt)
            self._meter.begin(generator, now_s=time.monotonic())
            self._events.emit(
                Event.UNIT_LEASED,
                unit=unit.unit_id,
                round=unit.round,
                kind=unit.kind,
                attempt=attempt.name,
                generator=generator,
            )

    def _look_around(self) -> None:
        self._looked_at = time.monotonic()
        self._fleet.look()
        self._control.is_paused = self._fleet.is_paused
        self._compaction.look(self._control.ledger.totals.units)

    def _note_committed(self) -> None:
        started_s = time.monotonic()
        self._refresh_at = started_s + REFRESH_S
        try:
            self._control.refresh(quiet_s=QUIET_S)
        except OSError as error:
            self._is_informed = False
            self._control.note_outage(str(error))
            return
        self._is_informed = True
        # Where a store takes long to list, looks are rarer: generators must not wait for them.
        spent_s = time.monotonic() - started_s
        self._refresh_at += min(spent_s / REFRESH_SHARE, LONGEST_REFRESH_S)

    def _wait_for_store(self) -> Decision:
        """Hand nothing out: what has been committed meanwhile is not known."""
        decision = self._control.decide()
        if decision.kind == "failed":
            return decision
        return Decision(kind="waiting", reason="the store does not answer; it is asked again")

    def _report(self) -> None:
        self._reported_at = time.monotonic()
        self._events.emit(Event.GENERATION_PROGRESS, **self.gauges())
        self._events.flush()
