"""Generators and a trainer that sleep, behind the real parts of a run."""

from __future__ import annotations

import asyncio
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import ray

from pipeline.loop.plan import make_plan
from pipeline.make.commit import commit_samples
from pipeline.make.rows import Draft, planned_rows
from schemas.config_file import load_config
from schemas.names import namespace_of, registry_name
from schemas.paths import resolve_path
from schemas.sample import SourceShard
from sources.live_shards import LiveShardList
from storage.files.stores import RunStore, open_store
from storage.manifests.table import read_unit
from storage.records.weights import publish_weights

if TYPE_CHECKING:
    from pipeline.make.attempt import Attempt
    from schemas.config import RunConfig
    from schemas.unit import Unit
    from storage.manifests.unit_outcome import UnitOutcome

KEYS_PER_UNIT = 4
IMAGE = bytes(512)
WEIGHTS_BYTES = 100_000
ASK_S = 0.2
PARENTS_READ = 16
"""Of so many units that label again, one reads its images' manifest as a real one would."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How long the sleepers sleep, in seconds: for a unit on average, between two versions."""

    unit_s: float
    publish_s: float


def make_config(url: str, *, rounds: int) -> RunConfig:
    """The demo's configuration with a plan of its own."""
    changes = (
        f"run.url={url}",
        f"plan.rounds={rounds}",
        f"plan.unit_size={KEYS_PER_UNIT}",
        "plan.variants=1",
        "plan.images=reuse",
        "generation.max_lead=4",
        "training.poll_s=0.5",
    )
    return load_config(resolve_path("configs/rooms_demo.yaml"), changes)


def plan_of(config: RunConfig, num_units: int) -> tuple[Unit, ...]:
    """A plan of about so many units, whose source is nowhere."""
    num_keys = KEYS_PER_UNIT * max(num_units // config.plan.rounds, 1)
    keys = [f"train-{number:08d}" for number in range(num_keys)]
    shards = [
        SourceShard(name=f"train-{start:08d}", uri="", keys=tuple(keys[start : start + 1000]))
        for start in range(0, num_keys, 1000)
    ]
    return make_plan(config, shards)


class GeneratorProcess:
    """Many simulated generators in one process; each has its unit, as the pool hands them out."""

    def __init__(self, config: RunConfig, pace: Pace) -> None:
        self._config = config
        self._pace = pace
        self._store = open_store(config.run.url)
        self._threads = ThreadPoolExecutor(1)
        self._busy: dict[int, asyncio.Lock] = {}
        self._registry: Any = None
        self._newest: Any = None
        self._ask_at = float("-inf")

    async def prepare(self, index: int) -> str:
        """Load nothing."""
        self._busy[index] = asyncio.Lock()
        return str(ray.get_runtime_context().get_node_id())

    async def ping(self, index: int) -> int:
        """Answer with the number of the generator."""
        return index

    async def generate(self, index: int, unit: Unit, attempt: Attempt) -> UnitOutcome:
        """Sleep, then commit a unit, one at a time for each generator."""
        async with self._busy[index]:
            begun = time.monotonic()
            version = await self._newest_version()
            await asyncio.sleep(self._pace.unit_s * random.uniform(0.5, 1.5))
            seconds = time.monotonic() - begun
            commit = partial(self._commit, unit, attempt, version=version, seconds=seconds)
            return await asyncio.get_running_loop().run_in_executor(self._threads, commit)

    async def _newest_version(self) -> int:
        """Ask the registry, for all generators of this process that ask within a short while."""
        if time.monotonic() > self._ask_at:
            self._ask_at = time.monotonic() + ASK_S
            if self._registry is None:
                name, namespace = registry_name(), namespace_of(self._config.run_id)
                self._registry = ray.get_actor(name, namespace=namespace)
            self._newest = self._registry.latest.remote()
        manifest, _ = await self._newest
        return int(manifest.version)

    def _commit(self, unit: Unit, attempt: Attempt, *, version: int, seconds: float) -> UnitOutcome:
        if unit.kind == "relabel" and int(unit.unit_id, 16) % PARENTS_READ == 0:
            read_unit(self._store, 0, unit.parent_unit_id, has_own_file=True)
        return commit_simulated(
            self._store, self._config, unit, attempt, version=version, seconds=seconds
        )


def commit_simulated(
    store: RunStore,
    config: RunConfig,
    unit: Unit,
    attempt: Attempt,
    *,
    version: int,
    seconds: float = 0.0,
) -> UnitOutcome:
    """Commit a unit of good samples with next to nothing in them."""
    members = {"image.png": IMAGE, "json": b"{}"}
    drafts = [
        Draft(row=replace(row, creation_version=version), members=members)
        for row in planned_rows(config, unit, attempt=attempt.name)
    ]
    return commit_samples(store, unit, drafts, attempt, seconds={"all": seconds})


@dataclass(frozen=True, slots=True)
class Method:
    """A method of one simulated generator, called as that of an actor."""

    method: Any
    index: int

    def remote(self, *arguments: Any) -> Any:
        """Call it."""
        return self.method.remote(self.index, *arguments)


class SimulatedGenerator:
    """Stands for the handle of a generator actor."""

    def __init__(self, process: Any, index: int) -> None:
        self.prepare = Method(process.prepare, index)
        self.generate = Method(process.generate, index)
        self.ping = Method(process.ping, index)


class SimulatedGenerators:
    """A :class:`pipeline.on_ray.generator.GeneratorStarter` with many generators to a process."""

    def __init__(self, config: RunConfig, pace: Pace, *, num_processes: int) -> None:
        remote: Any = ray.remote(num_cpus=1, max_concurrency=10_000)(GeneratorProcess)
        self._processes = [remote.remote(config, pace) for _ in range(num_processes)]
        self._num_started = 0

    def start(self) -> SimulatedGenerator:
        """Start a generator in the next process."""
        index = self._num_started
        self._num_started += 1
        return SimulatedGenerator(self._processes[index % len(self._processes)], index)

    def kill(self, actor: SimulatedGenerator, *, no_restart: bool) -> None:
        """Do nothing: a simulated generator ends with its process."""

    def stop(self) -> None:
        """End all processes."""
        for process in self._processes:
            ray.kill(process)


class SimulatedTrainer:
    """Publishes versions, looks for shards and draws from them, and learns nothing."""

    def __init__(self, config: RunConfig, num_units: int, pace: Pace) -> None:
        self._config = config
        self._store = CountingStore(config.run.url)
        self._per_round = max(num_units // config.plan.rounds, 1)
        self._pace = pace
        self._live = MeasuredList.from_config(self._store, config.training, seed=0)
        self._version = -1
        self._draws_s: list[float] = []
        self._is_over = False

    async def publish(self) -> int:
        """Publish the next version, which has seen as many rounds as were generated."""
        self._version += 1
        stage = self._config.training.self_improve
        images_per_round = -(-stage.steps * stage.batch_size // self._config.plan.rounds)
        publish_weights(
            self._store,
            os.urandom(WEIGHTS_BYTES),
            version=self._version,
            step=self._version,
            seen_images=self._live.units // self._per_round * images_per_round,
            ema_decay=0.998,
            base_model_hash="",
            keys_hash="",
            stage="self_improve",
            parent=self._version - 1,
        )
        return self._version

    async def train(self) -> dict[str, float]:
        """Train until :meth:`end`; returns what looking and drawing took."""
        published_at = time.monotonic()
        while not self._is_over:
            self._live.refresh()
            begun = time.thread_time()
            drawn = [self._live.draw() for _ in range(16)]
            self._draws_s.append((time.thread_time() - begun) / len(drawn))
            if time.monotonic() - published_at > self._pace.publish_s:
                published_at = time.monotonic()
                await self.publish()
            await asyncio.sleep(0.5)
        looks, units = self._live.looks, self._live.units
        late = [look for look in looks if look[0] > 0.9 * units]
        return {
            "trainer_names_per_look": fmean(names for _, names, _ in late),
            "trainer_ms_per_unit": 1e3 * sum(spent_s for _, _, spent_s in looks) / units,
            "trainer_draw_us": 1e6 * median(self._draws_s),
            "trainer_units_seen": units,
            "trainer_rss_mb": int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6,
            "versions": self._version + 1,
        }

    async def end(self) -> None:
        """End the training."""
        self._is_over = True


class MeasuredList(LiveShardList):
    """A live list that measures its looks: units known, names listed, CPU seconds."""

    units = 0

    def __init__(self, store: CountingStore, **options: Any) -> None:
        super().__init__(store, **options)
        self._counted = store
        self.looks: list[tuple[int, int, float]] = []

    def refresh(self, *, force: bool = False) -> int:
        """As that of any list."""
        names, begun = self._counted.names, time.thread_time()
        found = super().refresh(force=force)
        self.units += found
        if self._counted.names > names:
            spent_s = time.thread_time() - begun
            self.looks.append((self.units, self._counted.names - names, spent_s))
        return found


class CountingStore(RunStore):
    """A store that counts the names in its listings."""

    def __init__(self, url: str) -> None:
        store = open_store(url)
        super().__init__(store.url, store.root)
        object.__setattr__(self, "names", 0)

    def list_dir(self, rel: str) -> list[str]:
        """As that of any store."""
        found = super().list_dir(rel)
        object.__setattr__(self, "names", self.names + len(found))
        return found
