"""A run of many generators in simulation: what its driver spends on a unit, and whether that grows.

    python -m benchmarks.scale --units 10000 100000 --out scale.json

Generators and trainer sleep instead of computing. All between them is the real thing: coordinator,
leases, registry, commit of a small tar and its manifest, compaction, the live list of shards,
publishing. Each plan runs in a driver of its own; then another process finds out from storage what
is done, as a resubmitted driver does. The run lies on /dev/shm, so that the disk is not measured.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean, quantiles
from typing import TYPE_CHECKING, Any

import ray
from rich.console import Console
from rich.table import Table

from pipeline.loop.control import GenerationControl
from pipeline.on_ray.compaction import Compaction
from pipeline.on_ray.coordinator import GenerationLoop
from storage.files.stores import RunStore, open_store
from storage.manifests.places import list_parts, list_revisions
from tests.kit.simulated_run import Pace, SimulatedGenerators, SimulatedTrainer, make_config
from tests.kit.simulated_run import plan_of as make_simulated_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROWS: tuple[tuple[str, str], ...] = (
    ("plan_s", "make the plan, s"),
    ("driver_ms_per_unit", "driver, CPU ms per unit, all threads"),
    ("loop_ms_per_unit", "of that the loop's thread, ms"),
    ("first_tenth_ms_per_unit", "the loop's thread in the first tenth, ms"),
    ("last_tenth_ms_per_unit", "in the last tenth, ms"),
    ("turn_p50_ms", "a turn of the loop, CPU ms, median"),
    ("turn_p99_ms", "99th percentile"),
    ("rss_start_mb", "driver's memory before the first unit, MB"),
    ("rss_peak_mb", "greatest, MB"),
    ("names_per_look", "names in a look into storage, last tenth"),
    ("look_ms", "a look, ms, last tenth"),
    ("trainer_names_per_look", "trainer: names in a look, last tenth"),
    ("trainer_ms_per_unit", "trainer: looks, CPU ms per unit"),
    ("trainer_draw_us", "a draw, microseconds"),
    ("own_files", "units' own manifests left at the end"),
    ("parts", "compacted files"),
    ("recovery_s", "a new driver knows what is done, s"),
    ("recovery_rss_mb", "its memory then, MB"),
    ("units_per_s", "units a second"),
)


def main() -> None:
    """Measure what the command line asks for."""
    arguments = _parse()
    if arguments.part:
        work = {"drive": drive, "recover": recover}[arguments.part]
        print(json.dumps(work(arguments, arguments.units[0])))
        return
    found = []
    for units in arguments.units:
        found.append({"units": units})
        for part in ("drive", "recover"):
            found[-1] |= _in_a_process(part, units)
            print(json.dumps(found[-1]), flush=True)
        shutil.rmtree(run_url(arguments, units))
    Console(width=120).print(table_of(found))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=2) + "\n")


def drive(arguments: argparse.Namespace, num_units: int) -> dict[str, float]:
    """Run a plan to its end, in this process; returns what was measured."""
    url = run_url(arguments, num_units)
    shutil.rmtree(url, ignore_errors=True)
    config = make_config(url, rounds=num_rounds(arguments, num_units))
    begun = time.perf_counter()
    plan = make_simulated_plan(config, num_units)
    plan_s = time.perf_counter() - begun
    ray.init(
        address="local",
        num_cpus=arguments.processes + 2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        logging_level="error",
    )
    pace = Pace(unit_s=arguments.unit_s, publish_s=arguments.publish_s)
    trainer: Any = ray.remote(num_cpus=0)(SimulatedTrainer).remote(config, len(plan), pace)
    ray.get(trainer.publish.remote())
    generators = SimulatedGenerators(config, pace, num_processes=arguments.processes)
    looks = Looks()
    compaction = Compaction(_absolute(config), grace_s=arguments.grace_s)
    loop = GenerationLoop(config, url, plan=plan, starter=generators, compaction=compaction)
    training = trainer.train.remote()
    turns = Turns(loop, looks)
    rss_start_mb = rss_mb()
    loop.start(num_generators=arguments.generators)
    while turns.loop_is_running():
        time.sleep(1.0)
        print(json.dumps({"units": turns.units(), "rss_mb": rss_mb()}), file=sys.stderr)
    measured = {"plan_s": plan_s, "rss_start_mb": rss_start_mb, **turns.figures()}
    loop.stop()
    generators.stop()
    ray.get(trainer.end.remote())
    measured |= ray.get(training)
    store = open_store(url)
    measured["own_files"] = len(list_revisions(store))
    measured["parts"] = len(list_parts(store))
    measured["state"] = loop.state
    ray.shutdown()
    return measured


def recover(arguments: argparse.Namespace, num_units: int) -> dict[str, float]:
    """Find out what is done, as a new driver does; nothing of it may be left."""
    url = run_url(arguments, num_units)
    config = make_config(url, rounds=num_rounds(arguments, num_units))
    begun = time.perf_counter()
    control = GenerationControl(config, open_store(url), make_simulated_plan(config, num_units))
    recovery_s = time.perf_counter() - begun
    assert control.progress()["units_committed"] == control.ledger.num_units
    return {"recovery_s": recovery_s, "recovery_rss_mb": rss_mb(peak=True)}


class Looks:
    """Counts and times the listings of this process."""

    def __init__(self) -> None:
        self.names = self.listings = 0
        self.seconds = 0.0
        original: Callable[..., list[str]] = RunStore.list_dir

        def counted(store: RunStore, rel: str) -> list[str]:
            begun = time.perf_counter()
            found = original(store, rel)
            self.seconds += time.perf_counter() - begun
            self.names += len(found)
            self.listings += 1
            return found

        RunStore.list_dir = counted  # type: ignore[method-assign]


class Turns:
    """Measures the turns of a loop: the CPU time of the loop's thread, and its looks."""

    def __init__(self, loop: GenerationLoop, looks: Looks) -> None:
        self._loop = loop
        self._step = loop.step
        self._looks = looks
        self._turns_s: list[float] = []
        self._at: list[tuple[int, float]] = []
        self._looked: list[tuple[int, int, float]] = []
        self._begun_at, self._begun_cpu_s = time.perf_counter(), time.process_time()
        self._ended_at = 0.0
        self._peak_mb = 0.0
        loop.step = self._timed  # type: ignore[method-assign]

    def loop_is_running(self) -> bool:
        """Whether the plan is not done yet."""
        return self._loop.state not in {"finished", "failed"}

    def units(self) -> int:
        """Units committed."""
        return int(self._loop.gauges()["units_committed"])

    def figures(self) -> dict[str, float]:
        """What was measured."""
        units, cpu_s = self._at[-1][0], time.process_time() - self._begun_cpu_s
        spread = quantiles(self._turns_s, n=100)
        late = [look for look in self._looked if look[0] > 0.9 * units and look[1]]
        return {
            "driver_ms_per_unit": 1e3 * cpu_s / units,
            "loop_ms_per_unit": 1e3 * sum(self._turns_s) / units,
            "first_tenth_ms_per_unit": self._between(0.0, 0.1),
            "last_tenth_ms_per_unit": self._between(0.9, 1.0),
            "turn_p50_ms": 1e3 * spread[49],
            "turn_p99_ms": 1e3 * spread[98],
            "names_per_look": fmean(look[1] for look in late) if late else math.nan,
            "look_ms": 1e3 * fmean(look[2] for look in late) if late else math.nan,
            "rss_peak_mb": self._peak_mb,
            "units_per_s": units / (self._ended_at - self._begun_at),
        }

    def _timed(self) -> Any:
        names, seconds, begun_s = self._looks.names, self._looks.seconds, time.thread_time()
        decision = self._step()
        self._turns_s.append(time.thread_time() - begun_s)
        self._ended_at = time.perf_counter()
        units = self._loop._control.ledger.totals.units
        self._at.append((units, self._turns_s[-1]))
        self._looked.append((units, self._looks.names - names, self._looks.seconds - seconds))
        if len(self._turns_s) % 100 == 0:
            self._peak_mb = max(self._peak_mb, rss_mb())
        return decision

    def _between(self, first: float, last: float) -> float:
        units = self._at[-1][0]
        inside = [each for each in self._at if first * units <= each[0] <= last * units]
        done = inside[-1][0] - inside[0][0]
        return 1e3 * sum(spent_s for _, spent_s in inside) / max(done, 1)


def table_of(found: Sequence[dict[str, Any]]) -> Table:
    """A column for each plan."""
    table = Table("units", *(f"{each['units']:,}" for each in found))
    for name, title in ROWS:
        table.add_row(title, *(f"{each.get(name, math.nan):.4g}" for each in found))
    return table


def num_rounds(arguments: argparse.Namespace, num_units: int) -> int:
    """Rounds of a plan: a longer run labels the same images more often."""
    return max(num_units // arguments.units_per_round, 1)


def rss_mb(*, peak: bool = False) -> float:
    """Memory of this process, in megabytes (10^6 bytes)."""
    if peak:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize() / 1e6


def run_url(arguments: argparse.Namespace, num_units: int) -> str:
    """Where a plan's run lies."""
    return str(arguments.folder / f"scale-{num_units}")


def _absolute(config: Any) -> Any:
    run = config.run.model_copy(update={"url": open_store(config.run.url).url})
    return config.model_copy(update={"run": run})


def _in_a_process(part: str, units: int) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.scale",
        *sys.argv[1:],
        "--part",
        part,
        "--units",
        str(units),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--units", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--generators", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=3, help="processes that they live in")
    parser.add_argument("--units-per-round", type=int, default=2500)
    parser.add_argument("--unit-s", type=float, default=4.0, help="mean time of a unit")
    parser.add_argument("--publish-s", type=float, default=4.0, help="between two versions")
    parser.add_argument("--grace-s", type=float, default=5.0, help="of replaced manifests")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--out", type=Path, help="write what was measured to this JSON file")
    parser.add_argument("--part", choices=["drive", "recover"], help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
