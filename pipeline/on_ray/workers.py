"""The generator actors of a run and the units that they hold."""

from __future__ import annotations

import heapq
import logging
import math
import time
from typing import TYPE_CHECKING, Any

import ray

from pipeline.loop.timing import UnitDeadline
from pipeline.make.isolate import Failure
from pipeline.on_ray.drain import is_node_gone
from pipeline.on_ray.generator import ActorStarter, AttemptFailure
from pipeline.on_ray.leases import Lease, Return, Worker
from schemas.errors import RunFailedError
from storage.manifests.unit_outcome import UnitOutcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.make.attempt import Attempt
    from pipeline.make.drain import GivenBack
    from pipeline.on_ray.generator import GeneratorStarter
    from schemas.config import RunConfig
    from schemas.unit import Unit

logger = logging.getLogger(__name__)

ASK_AGAIN_S = 1.0

CHECK_S = 0.25
"""Between two looks at generators from which nothing has arrived."""


class WorkerPool:
    """Starts generators, hands them units, takes units back whatever happens to a generator.

    Not safe for use by several threads.

    Args:
        config: The run's configuration; ``run.url`` must be absolute.
        starter: Starts and ends generators; actors of Ray if None.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        pinned_version: int | None = None,
        starter: GeneratorStarter | None = None,
    ) -> None:
        self._config = config
        self._starter = starter or ActorStarter(config, pinned_version=pinned_version)
        self._workers: list[Worker] = []
        self._room: list[tuple[int, int, Worker]] = []
        self._checked_at = float("-inf")
        self._num_started = 0
        self._deadline = UnitDeadline(config.generation)
        self._max_deaths = 2 * config.generation.max_attempts

    def __len__(self) -> int:
        """Return the number of generators that are not lost for good."""
        return len(self._workers)

    @property
    def num_ready(self) -> int:
        """Generators whose models are loaded."""
        return sum(worker.is_ready for worker in self._workers)

    @property
    def num_staying(self) -> int:
        """Generators that are not on their way out for good."""
        return sum(not worker.is_leaving for worker in self._workers)

    @property
    def num_draining(self) -> int:
        """Generators that get no more units and have not been stopped yet."""
        return sum(worker.is_draining for worker in self._workers)

    @property
    def actors(self) -> dict[str, Any]:
        """Handles of the generators by name."""
        return {worker.name: worker.actor for worker in self._workers}

    def add(self) -> str:
        """Start a generator; it is given units once its models are loaded."""
        name = f"generator-{self._num_started}"
        self._num_started += 1
        actor = self._start_actor()
        worker = Worker(name=name, actor=actor)
        worker.ask_to_prepare()
        self._workers.append(worker)
        return name

    def drain(self, remaining_s: Mapping[str, float]) -> list[str]:
        """Let the generators on some nodes finish or give back, then start them elsewhere.

        Args:
            remaining_s: Node id to seconds until the node is gone.

        Returns:
            Names of those that were not told before.
        """
        found = [w for w in self._workers if w.is_ready and w.node_id in remaining_s]
        told = [worker for worker in found if not worker.is_draining]
        for worker in told:
            worker.is_draining = True
            worker.actor.stop_after_batch.remote(remaining_s[worker.node_id])
        return [worker.name for worker in told]

    def forgive(self, name: str) -> None:
        """Do not count what a generator died of: it was a sample, and that is known now."""
        for worker in self._workers:
            if worker.name == name:
                worker.deaths = 0

    def retire(self) -> str:
        """Let one generator finish its unit and stop it for good; returns its name.

        Raises:
            RunFailedError: If all are on their way out already.
        """
        staying = [worker for worker in self._workers if not worker.is_leaving]
        if not staying:
            raise RunFailedError("no generator is left that could be stopped")
        # Those that wait for a machine or for their models lose nothing, the youngest least.
        worker = min(reversed(staying), key=lambda w: (w.is_ready, len(w.leases)))
        worker.is_leaving = worker.is_draining = True
        if worker.is_ready:
            worker.actor.stop_after_batch.remote(math.inf)
        return worker.name

    def has_room(self) -> bool:
        """Whether :meth:`hand_out` finds a generator."""
        return self._least_loaded() is not None

    def hand_out(self, unit: Unit, attempt: Attempt) -> str:
        """Give a unit to the ready generator that holds fewest; returns its name.

        Raises:
            RunFailedError: If there is no room.
        """
        worker = self._least_loaded()
        if worker is None:
            raise RunFailedError("no generator has room for a unit")
        _, place, _ = heapq.heappop(self._room)
        promise = worker.actor.generate.remote(unit, attempt)
        lease = Lease(unit=unit, attempt=attempt, promise=promise)
        worker.leases.append(lease)
        worker.leases[0].begun_at = worker.leases[0].begun_at or time.monotonic()
        heapq.heappush(self._room, (len(worker.leases), place, worker))
        return worker.name

    def wait(self, timeout_s: float) -> None:
        """Wait until something may have arrived, at most ``timeout_s`` seconds."""
        pending = [promise for worker in self._workers for promise in worker.promises()]
        if pending:
            ray.wait(pending, num_returns=1, timeout=timeout_s)
        else:
            time.sleep(timeout_s)

    def collect(self) -> list[Return]:
        """Take back the units that are done, and those of generators that are lost or stuck.

        Raises:
            RunFailedError: If no generator is left, or one met an error that all would meet.
        """
        arrived = self._arrived()
        is_check_due = time.monotonic() - self._checked_at >= CHECK_S
        if is_check_due:
            self._checked_at = time.monotonic()
        returned: list[Return] = []
        for worker in list(self._workers):
            if is_check_due or worker.preparing in arrived or worker.head() in arrived:
                returned += self._collect(worker, arrived)
        self._find_room()
        if self._num_started and not self._workers:
            raise RunFailedError(
                "all generators were lost and did not come back; look at their logs (memory is "
                "the usual reason) and start the same command again"
            )
        return returned

    def close(self, timeout_s: float) -> None:
        """Stop all generators, after those at work had ``timeout_s`` seconds to end their unit."""
        begun = [lease.promise for worker in self._workers for lease in worker.leases[:1]]
        if begun and timeout_s > 0:
            ray.wait(begun, num_returns=len(begun), timeout=timeout_s)
        for worker in self._workers:
            self._starter.kill(worker.actor, no_restart=True)
        self._workers.clear()

    def _start_actor(self) -> Any:
        return self._starter.start()

    def _find_room(self) -> None:
        """Note once a turn who has room, so that handing out does not look at everybody."""
        self._room = [
            (len(worker.leases), place, worker)
            for place, worker in enumerate(self._workers)
            if worker.has_room()
        ]
        heapq.heapify(self._room)

    def _least_loaded(self) -> Worker | None:
        while self._room:
            load, _, worker = self._room[0]
            if worker.has_room() and len(worker.leases) == load:
                return worker
            heapq.heappop(self._room)
        return None

    def _arrived(self) -> set[Any]:
        """Promises of :meth:`Worker.promises` that are kept, all asked for at once."""
        pending = [promise for worker in self._workers for promise in worker.promises()]
        if not pending:
            return set()
        return set(ray.wait(pending, num_returns=len(pending), timeout=0)[0])

    def _collect(self, worker: Worker, arrived: set[Any]) -> list[Return]:
        if not worker.leases and worker.is_draining:
            self._move(worker)
            return []
        if not worker.is_ready:
            self._prepare(worker, arrived)
            return []
        returned: list[Return] = []
        try:
            if worker.head() in arrived:
                outcome = ray.get(worker.leases[0].promise)
                if isinstance(outcome, UnitOutcome):
                    lease = worker.leases[0]
                    worker.sample_s = self._deadline.note(lease.unit, lease.age_s())
                returned.append(self._pop(worker, outcome))
                worker.deaths = 0
        except ray.exceptions.RayError as error:
            return [*returned, *self._lose(worker, Failure("generator_died", _first_line(error)))]
        if worker.leases and worker.leases[0].age_s() > (limit_s := self._limit_s(worker)):
            self._starter.kill(worker.actor, no_restart=False)
            detail = f"not done within {limit_s:.0f} s; units like it are much faster"
            if limit_s >= self._config.generation.unit_timeout_s:
                detail = f"not done within generation.unit_timeout_s = {limit_s:g}"
            returned += self._lose(worker, Failure("timeout", detail))
        return returned

    def _prepare(self, worker: Worker, arrived: set[Any]) -> None:
        """Ask a generator to load its models, or see whether it has done so."""
        if worker.preparing is None:
            if time.monotonic() >= worker.ask_at:
                worker.ask_to_prepare()
            return
        if worker.preparing not in arrived:
            self._expect_to_load(worker)
            return
        promise, worker.preparing = worker.preparing, None
        worker.ask_at = time.monotonic() + ASK_AGAIN_S
        try:
            answer: str | AttemptFailure = ray.get(promise)
        except ray.exceptions.ActorUnavailableError:
            # Ray is restarting it, perhaps on another node.
            self._give_up_if_gone(worker)
        except ray.exceptions.RayError as error:
            self._lose(worker, Failure("generator_died", _first_line(error)))
        else:
            self._note_prepared(worker, answer)

    def _expect_to_load(self, worker: Worker) -> None:
        """Kill a generator whose process is there and has not loaded its models for too long."""
        now_s = time.monotonic()
        if worker.awake_at is None:
            worker.awake_at = now_s if ray.wait([worker.waking], timeout=0)[0] else None
            return
        limit_s = self._config.generation.unit_timeout_s
        if now_s - worker.awake_at > limit_s:
            worker.preparing = None
            self._starter.kill(worker.actor, no_restart=False)
            detail = f"models not loaded within generation.unit_timeout_s = {limit_s:g}"
            self._lose(worker, Failure("timeout", detail))

    def _note_prepared(self, worker: Worker, answer: str | AttemptFailure) -> None:
        if isinstance(answer, str):
            worker.is_ready, worker.lost_at, worker.node_id = True, None, answer
        elif answer.is_fatal:
            raise RunFailedError(answer.failure.detail)
        else:
            self._lose(worker, answer.failure)

    def _move(self, worker: Worker) -> None:
        """Stop a generator that holds nothing any more; if it stays, start it somewhere else.

        A new actor waits for a machine as long as that takes, and makes the cluster grow; one that
        Ray restarts after a kill answers with errors until there is a machine.
        """
        logger.info("generator_drained name=%s node=%s", worker.name, worker.node_id)
        self._starter.kill(worker.actor, no_restart=True)
        if worker.is_leaving:
            self._workers.remove(worker)
            return
        worker.is_ready = worker.is_draining = False
        worker.actor = self._start_actor()
        worker.ask_to_prepare()

    def _give_up_if_gone(self, worker: Worker) -> None:
        worker.lost_at = worker.lost_at or time.monotonic()
        if time.monotonic() - worker.lost_at > self._config.generation.unit_timeout_s:
            logger.warning("generator_gone name=%s", worker.name)
            self._workers.remove(worker)

    def _pop(
        self, worker: Worker, outcome: UnitOutcome | GivenBack | AttemptFailure | None
    ) -> Return:
        lease = worker.leases.pop(0)
        if worker.leases:
            worker.leases[0].begun_at = time.monotonic()
        return Return(
            generator=worker.name, unit=lease.unit, attempt=lease.attempt, outcome=outcome
        )

    def _limit_s(self, worker: Worker) -> float:
        """Seconds that the unit in the making may take."""
        lease = worker.leases[0]
        is_careful = lease.attempt.history.is_careful
        return self._deadline.limit_s(lease.unit, own_s=worker.sample_s, is_careful=is_careful)

    def _lose(self, worker: Worker, failure: Failure) -> list[Return]:
        """Take all units back; only the one in the making is to blame, unless the machine went."""
        logger.warning("generator_lost name=%s reason=%s", worker.name, failure)
        has_died = failure.reason == "generator_died"
        is_machine = worker.is_draining and has_died
        is_blameless = is_machine or (has_died and is_node_gone(worker.node_id))
        blamed = None if is_blameless else AttemptFailure(failure=failure, is_fatal=False)
        returned = [self._pop(worker, blamed)] if worker.leases else []
        returned += [self._pop(worker, None) for _ in list(worker.leases)]
        worker.is_ready = False
        worker.lost_at = worker.lost_at or time.monotonic()
        if is_machine:
            worker.is_draining = worker.is_leaving
            return returned
        # A dead machine is noticed late: until then every call fails, and none of that is new.
        worker.ask_at = time.monotonic() + ASK_AGAIN_S * 2**worker.deaths
        worker.deaths += 1
        if worker.deaths >= self._max_deaths:
            self._workers.remove(worker)
        return returned


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
