"""The generator actor: a :class:`pipeline.make.generator.Generator` in a process of its own."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import ray
import torch

from pipeline.loop.control import FATAL_ERRORS
from pipeline.make.build import open_generator
from pipeline.make.drain import UnitGivenBackError
from pipeline.make.isolate import Failure, failure_of
from pipeline.make.unit_weights import watch_for
from schemas.names import namespace_of, registry_name
from storage.files.stores import open_store
from storage.records.weights import watch_all

if TYPE_CHECKING:
    from pipeline.make.attempt import Attempt
    from pipeline.make.drain import GivenBack
    from pipeline.make.generator import Generator
    from schemas.config import RunConfig
    from schemas.unit import Unit
    from schemas.weights import Series, WeightsManifest
    from storage.manifests.unit_outcome import UnitOutcome
    from storage.records.weights import WeightsWatch

logger = logging.getLogger(__name__)

REGISTRY_WAIT_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptFailure:
    """An attempt that failed as a whole.

    Attributes:
        failure: Why.
        is_fatal: Whether every other unit would fail the same way.
    """

    failure: Failure
    is_fatal: bool


class GeneratorActor:
    """Makes units one at a time; takes the newest weights before each.

    Errors come back as values: not every exception survives the way between processes. The
    coordinator counts attempts, so Ray retries none.

    Args:
        pinned_version: Use this version of the creation weights alone.
    """

    def __init__(
        self, config: RunConfig, store_url: str, pinned_version: int | None = None
    ) -> None:
        torch.set_num_threads(config.generation.cpus_per_generator)
        self._config = config
        self._store = open_store(store_url)
        self._watches = watch_all(self._store, pinned=pinned_version)
        self._generator: Generator | None = None

    def prepare(self) -> str | AttemptFailure:
        """Load the models ahead of the first unit.

        Returns:
            The node that it is on, or why the models cannot be loaded.
        """
        try:
            self._loaded()
        except Exception as error:  # noqa: BLE001 - the boundary of the actor
            return _failed(error)
        return str(ray.get_runtime_context().get_node_id())

    def generate(self, unit: Unit, attempt: Attempt) -> UnitOutcome | GivenBack | AttemptFailure:
        """Make and commit a unit with the newest weights, unless it has to leave before."""
        try:
            generator = self._loaded()
            if not generator.drain.is_requested:
                for series in generator.series_of(unit):
                    watch = watch_for(unit, series, self._store, self._watches)
                    self._take_newest(generator, series, watch, epoch=attempt.epoch)
            return generator.generate(unit, attempt)
        except UnitGivenBackError as error:
            return error.given_back
        except Exception as error:  # noqa: BLE001 - the boundary of the actor
            return _failed(error)

    @ray.method(concurrency_group="control")
    def ping(self) -> int:
        """Answer with the id of the process, also while a unit is being made."""
        return os.getpid()

    @ray.method(concurrency_group="control")
    def stop_after_batch(self, remaining_s: float) -> None:
        """Begin no further unit; end or give back the one in the making within ``remaining_s``."""
        if self._generator is not None:
            self._generator.drain.request(remaining_s=remaining_s)

    @ray.method(concurrency_group="control")
    def version(self) -> int | None:
        """Version of the creation weights in use; None before the first."""
        return None if self._generator is None else self._generator.version

    def _loaded(self) -> Generator:
        if self._generator is None:
            self._generator = open_generator(self._config, self._store)
        return self._generator

    def _take_newest(
        self, generator: Generator, series: Series, watch: WeightsWatch, *, epoch: int
    ) -> None:
        held = generator.versions[series]
        offered = None if watch.is_pinned else self._ask_registry(series, held, epoch)
        if offered is not None:
            generator.take_weights(*offered, series)
            return
        # Storage is the truth: it may know a newer version than the registry, or than nobody.
        newer = watch.newer_than(held)
        if newer is not None:
            generator.take_weights(*newer, series)

    def _ask_registry(
        self, series: Series, held: int | None, epoch: int
    ) -> tuple[WeightsManifest, bytes] | None:
        """Newer weights from the registry; None if it has none or cannot be reached."""
        name, namespace = registry_name(epoch), namespace_of(self._config.run_id)
        try:
            registry: Any = ray.get_actor(name, namespace=namespace)
            fetch: Any = ray.get
            newest = fetch(registry.latest.remote(series), timeout=REGISTRY_WAIT_S)
            if newest is None or (held is not None and newest[0].version <= held):
                return None
            return newest[0], fetch(newest[1][0], timeout=REGISTRY_WAIT_S)
        except (ray.exceptions.RayError, ValueError) as error:
            logger.warning("registry_not_reached: %s", error)
            return None


def _failed(error: Exception) -> AttemptFailure:
    logger.warning("attempt_failed", exc_info=error)
    return AttemptFailure(failure=failure_of(error), is_fatal=isinstance(error, FATAL_ERRORS))


def start_generator(
    config: RunConfig,
    store_url: str,
    *,
    pinned_version: int | None = None,
    actor_class: type[GeneratorActor] = GeneratorActor,
) -> Any:
    """Start a generator actor, whose handle is returned; it ends with the driver."""
    generation = config.generation
    threads = str(generation.cpus_per_generator)
    actor_options: dict[str, Any] = {
        "max_restarts": -1,
        "max_task_retries": 0,
        "concurrency_groups": {"control": 2},
    }
    remote: Any = ray.remote(**actor_options)(actor_class)
    actor = remote.options(
        num_cpus=generation.cpus_per_generator,
        num_gpus=generation.gpus_per_generator,
        label_selector=config.ray.generator_labels or None,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
    )
    return actor.remote(config, store_url, pinned_version)


class GeneratorStarter(Protocol):
    """Starts and ends what makes units: actors of Ray, or what stands for them."""

    def start(self) -> Any:
        """Start a generator; returns a handle with the methods of a ``GeneratorActor``."""

    def kill(self, actor: Any, *, no_restart: bool) -> None:
        """End a generator at once; unless ``no_restart``, it comes back without its models."""


class ActorStarter:
    """Generators as actors of Ray."""

    def __init__(self, config: RunConfig, *, pinned_version: int | None = None) -> None:
        self._config = config
        self._pinned = pinned_version

    def start(self) -> Any:
        """Start an actor, which waits for a machine as long as that takes."""
        return start_generator(self._config, self._config.run.url, pinned_version=self._pinned)

    def kill(self, actor: Any, *, no_restart: bool) -> None:
        """Kill the actor's process."""
        ray.kill(actor, no_restart=no_restart)
