"""Many random kills in one run, and what is left in the end: for hours, by hand or `make soak`.

    python tests/kit/faults/soak.py driver --kills 20 --seed 0
    python tests/kit/faults/soak.py parts --kills 20 --seed 0

``driver``: the whole process tree of ``jobs/self_improve.py`` is killed at a random moment, and the
same command is given again. ``parts``: one of generators, registry, training workers, nodes of the
cluster and driver is killed every few seconds. Both end when a driver ends with exit code 0.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from rich.console import Console
from rich.table import Table

from jobs.verify import main as verify
from schemas.unit import Unit
from storage.files.stores import open_store
from storage.records.events import read_events
from storage.records.weights import list_versions, read_manifest
from tests.kit.faults.killable_cluster import KillableCluster, killable_cluster
from tests.kit.faults.submitted import committed
from tests.kit.job_process import (
    ProcessTree,
    environment,
    ray_folder,
    running_job,
)
from tests.kit.small_loop import write_loop
from tests.kit.wholeness import expect_whole

VICTIMS = ("generator", "registry", "trainer", "node", "driver")
LATEST_S = {"driver": 45.0, "parts": 12.0}
STEPS = {"driver": 1200, "parts": 1200}
"""Enough that work is left when the last kill comes."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One kill, and what the run held then."""

    number: int
    victim: str
    moment_s: float
    units: int
    version: int
    step: int


@dataclass(kw_only=True)
class Soak:
    """One soak: what was done, and the run that it was done to."""

    run: Path
    plan: Sequence[Unit]
    arguments: list[str]
    steps: int
    kills: list[Kill] = field(default_factory=list)
    submissions: int = 0
    seconds: float = 0.0

    def note(self, victim: str, moment_s: float) -> None:
        """Note a kill that was just made."""
        store = open_store(str(self.run))
        events = [e for e in read_events(store) if e["event"] == "trainer_progress"]
        steps = [int(e["step"]) for e in events if e["stage"] == "self_improve" and "step" in e]
        kill = Kill(
            number=len(self.kills) + 1,
            victim=victim,
            moment_s=moment_s,
            units=len(list(self.run.glob("manifest/units/*/*.parquet"))),
            version=max(list_versions(store), default=-1),
            step=max(steps, default=0),
        )
        self.kills.append(kill)
        print(kill, flush=True)  # noqa: T201

    def is_ahead(self) -> bool:
        """Whether the run held more at the last kill than at the one before."""
        held = [(kill.units, kill.version, kill.step) for kill in self.kills[-2:]]
        return len(held) == 2 and held[0] != held[1]

    def expect_whole(self) -> None:
        """Fail unless the run ended as if nobody had been killed."""
        expect_whole(str(self.run), self.plan)
        verify([str(self.run)])
        store = open_store(str(self.run))
        versions = list_versions(store)
        assert versions == list(range(len(versions)))
        steps = [read_manifest(store, version).step for version in versions]
        assert steps == sorted(set(steps)), steps
        assert steps[-1] == self.steps

    def table(self, seed: int) -> Table:
        """The kills."""
        title = f"seed {seed}: {len(self.kills)} kills, {self.submissions} submissions"
        table = Table("kill", "victim", "after s", "units", "version", "step", title=title)
        for kill in self.kills:
            values = (kill.units, kill.version, kill.step)
            table.add_row(
                str(kill.number), kill.victim, f"{kill.moment_s:.1f}", *(str(v) for v in values)
            )
        return table


def soak_driver(folder: Path, *, kills: int, seed: int, latest_s: float, steps: int) -> Soak:
    """Kill the driver's whole process tree at random moments of one run.

    Args:
        folder: Of the run and the logs.
        kills: How often.
        seed: Of the moments.
        latest_s: Latest moment after a start, in seconds: a bit beyond what the start takes. It
            grows while nothing is achieved between two kills, for a machine may be busy.
        steps: Of the self-improving stage.
    """
    soak, draw = _begin(folder, steps), random.Random(seed)
    started_s, reach_s = time.monotonic(), latest_s
    with ray_folder() as ray:
        for _ in range(kills):
            before = committed(soak.run)
            with _submitted(soak, folder, environment(ray)) as tree:
                moment_s = draw.uniform(0.0, reach_s)
                if not _waits(tree, moment_s):
                    assert tree.poll() == 0, tree.output
                    break
                tree.end()
            soak.note("driver", moment_s)
            reach_s = latest_s if soak.is_ahead() else 1.2 * reach_s
            assert before.items() <= committed(soak.run).items(), "what was committed has changed"
        with _submitted(soak, folder, environment(ray)) as tree:
            ended = tree.wait()
            assert ended.code == 0, ended.output
    soak.seconds = time.monotonic() - started_s
    return soak


def _begin(folder: Path, steps: int, **changes: dict[str, Any]) -> Soak:
    training = {
        "self_improve": {"steps": steps, "batch_size": 4},
        "publish_every_images": 80,
        "checkpoint_every_steps": 10,
    }
    plan = {"rounds": 3, "unit_size": 1}
    arguments, units = write_loop(folder, training=training, plan=plan, **changes)
    return Soak(run=folder / "run", plan=units, arguments=arguments, steps=steps)


@contextmanager
def _submitted(soak: Soak, folder: Path, how: dict[str, str]) -> Iterator[ProcessTree]:
    log = folder / f"{soak.submissions:03d}.log"
    soak.submissions += 1
    with running_job("self_improve", soak.arguments, log=log, environment=how) as tree:
        yield tree


def soak_parts(folder: Path, *, kills: int, seed: int, latest_s: float, steps: int) -> Soak:
    """Kill generators, registry, training workers, nodes and drivers of one run on a cluster.

    Args:
        folder: Of the run and the logs.
        kills: How often.
        seed: Of victims and moments.
        latest_s: Longest time between two kills, in seconds.
        steps: Of the self-improving stage.
    """
    soak, draw = _begin(folder, steps, generation={"num_generators": 2}), random.Random(seed)
    started_s = time.monotonic()
    with ray_folder() as ray, killable_cluster() as cluster:
        how = environment(ray, RAY_ADDRESS=cluster.address)
        while True:
            with _submitted(soak, folder, how) as tree:
                _kill_parts(soak, tree, cluster, draw, kills=kills, latest_s=latest_s)
                ended = tree.wait()
            if ended.code == 0:
                break
            if ended.code == -signal.SIGKILL:
                continue
            # A driver bears so many failures of its trainers and then asks for the same command.
            assert ended.code == 1, ended.output
            assert soak.submissions <= 2 * kills, ended.output
            print(ended.output.strip().rsplit("\n", 1)[-1], flush=True)  # noqa: T201
    soak.seconds = time.monotonic() - started_s
    return soak


def _kill_parts(
    soak: Soak,
    tree: ProcessTree,
    cluster: KillableCluster,
    draw: random.Random,
    *,
    kills: int,
    latest_s: float,
) -> None:
    """Kill one part after the other until the driver ends, is itself the victim, or all is done."""
    begun_s = time.monotonic()
    while len(soak.kills) < kills:
        wait_s = draw.uniform(0.0, latest_s)
        victims = draw.sample(VICTIMS, len(VICTIMS))
        if not _waits(tree, wait_s):
            return
        victim = next(v for v in victims if v == "driver" or cluster.kill(v, draw))
        soak.note(victim, time.monotonic() - begun_s)
        if victim == "driver":
            tree.end()
            return


def _waits(tree: ProcessTree, seconds: float) -> bool:
    """Whether a job still runs after some seconds."""
    until_s = time.monotonic() + seconds
    while tree.poll() is None and time.monotonic() < until_s:
        time.sleep(0.02)
    return tree.poll() is None


def main(arguments: Sequence[str]) -> None:
    """Run a soak and print what was killed and what was found."""
    parser = argparse.ArgumentParser(description="Many random kills in one run.")
    parser.add_argument("what", choices=("driver", "parts"))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--latest-s",
        type=float,
        help="driver: latest moment after a start; parts: longest time between two kills",
    )
    parser.add_argument("--steps", type=int, help="of the self-improving stage")
    parser.add_argument("--folder", type=Path, help="of the run; default: a temporary one")
    parsed = parser.parse_args(arguments)
    folder = parsed.folder or Path(tempfile.mkdtemp(prefix="soak"))
    folder.mkdir(parents=True, exist_ok=True)
    work = {"driver": soak_driver, "parts": soak_parts}[parsed.what]
    latest_s = parsed.latest_s or LATEST_S[parsed.what]
    steps = parsed.steps or STEPS[parsed.what]
    soak = work(folder, kills=parsed.kills, seed=parsed.seed, latest_s=latest_s, steps=steps)
    console = Console()
    console.print(soak.table(parsed.seed))
    soak.expect_whole()
    console.print(
        f"{len(soak.plan)} of {len(soak.plan)} units committed once, digests and counts match, "
        f"versions and steps without gap; {soak.seconds:.0f} s"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
