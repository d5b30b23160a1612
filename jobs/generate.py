"""Generate alone: make the units of a run from the creation weights it has.

    python jobs/generate.py --config configs/rooms_demo.yaml

The same command resumes; what is committed is not made again.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console

from jobs.check_config import expect_models
from jobs.command_line import config_from, make_parser, run_job
from jobs.driving import driving
from jobs.progress import ProgressDisplay, RunView
from jobs.run_directory import claim_run_directory
from pipeline.build import open_captioner, open_generator, open_run_source
from pipeline.caption import caption_source
from pipeline.control import GenerationControl
from pipeline.ledger import UnitLedger
from pipeline.local_runner import run_units
from pipeline.plan import make_plan, plan_summary
from schemas.errors import ConfigError, RunFailedError
from storage.filesystem import open_store
from storage.manifest_table import BriefReader
from storage.weights_store import list_versions

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from pipeline.ray_coordinator import GenerationLoop
    from schemas.config import RunConfig
    from schemas.unit import Unit
    from storage.filesystem import RunStore
    from storage.run_lock import RunLock


def main(arguments: Sequence[str]) -> None:
    """Generate what the command line describes."""
    parsed = _parse(arguments)
    config, console = config_from(parsed), Console()
    expect_models(config)
    store = open_store(config.run.url)
    plan = plan_of(config, rounds=parsed.rounds)
    if parsed.dry_run:
        for line in describe_plan(config, plan, store):
            console.print(line)
        return
    claim_run_directory(store, config)
    check_weights(store, parsed.weights)
    generate = generate_here if parsed.local else generate_on_ray
    with driving(store, job="generate", roles=("generate",)) as lock:
        figures = generate(config, lock, plan, version=parsed.weights, console=console)
    for name in ("units", "samples_ok", "samples_filtered", "samples_failed", "reasons"):
        console.print(f"{name}: {figures[name]}")
    console.print(f"ended: {figures['reason']}")


def plan_of(config: RunConfig, *, rounds: int | None = None) -> tuple[Unit, ...]:
    """The run's plan, or its first rounds."""
    plan = make_plan(config, open_run_source(config).shards("train"))
    return tuple(unit for unit in plan if rounds is None or unit.round < rounds)


def describe_plan(config: RunConfig, plan: Sequence[Unit], store: RunStore) -> list[str]:
    """Say what would be done, with times if the run has measured any."""
    ledger = UnitLedger(config, plan, history=BriefReader(store).refresh())
    summary = plan_summary(
        config,
        plan,
        image_size=open_run_source(config).image_size,
        committed=[unit.unit_id for unit in plan if not ledger.is_open(unit)],
        cost=ledger.totals.cost(),
    )
    return summary.lines()


def check_weights(store: RunStore, version: int | None) -> None:
    """Check that the run has the creation weights to label with.

    Raises:
        ConfigError: If it has none, or not the wanted version.
    """
    versions = list_versions(store)
    if not versions:
        raise ConfigError(
            f"run.url = {store.url}: has no creation weights yet; run jobs/train.py with "
            "--stage warm_up, or jobs/self_improve.py, on the same configuration first"
        )
    if version is not None and version not in versions:
        raise ConfigError(f"--weights {version}: {store.url} has versions {versions}")


def generate_here(
    config: RunConfig,
    lock: RunLock,
    plan: Sequence[Unit],
    *,
    version: int | None,
    console: Console,
) -> dict[str, Any]:
    """Generate in this process.

    Returns:
        Figures as :meth:`pipeline.control.GenerationControl.progress` gives them, and why it ended.

    Raises:
        RunFailedError: If too much failed.
    """
    store = lock.store
    caption_source(store, open_run_source(config), open_captioner(config))
    control = GenerationControl(
        config, store, plan, pinned_version=version, weights_final=True, lock=lock
    )
    ended = run_units(
        control,
        open_generator(config, store),
        store,
        pinned_version=version,
        on_unit=lambda unit: console.print(f"committed {unit.kind} unit {unit.unit_id}"),
    )
    if ended.kind == "failed":
        raise RunFailedError(ended.reason)
    progress = control.progress()
    units = f"{progress['units_committed']} / {progress['units_planned']}"
    return {**progress, "units": units, "reason": ended.reason}


def generate_on_ray(
    config: RunConfig,
    lock: RunLock,
    plan: Sequence[Unit],
    *,
    version: int | None,
    console: Console,
) -> dict[str, Any]:
    """Generate with generator actors, on the cluster or a local Ray.

    Returns:
        Figures as :meth:`pipeline.ray_coordinator.GenerationLoop.gauges` gives them.

    Raises:
        RunFailedError: If too much failed.
    """
    from jobs import ray_session
    from jobs.ray_signals import RaySignals
    from pipeline.ray_captions import caption_source_on_ray
    from pipeline.ray_coordinator import GenerationLoop

    with ray_session.connect(config, console):
        caption_source_on_ray(config, lock.store.url)
        loop = GenerationLoop(
            config,
            lock.store.url,
            plan=plan,
            pinned_version=version,
            weights_final=True,
            lock=lock,
        )
        view = RunView(stage="generate")
        signals = RaySignals(config.run_id)

        def refresh(shown: RunView) -> None:
            shown.generation = loop.gauges()
            signals.show(shown)

        try:
            loop.start()
            with ProgressDisplay(console, view, refresh):
                loop.join()
            return loop.gauges()
        finally:
            stop_generation(loop, lock)


def stop_generation(loop: GenerationLoop, lock: RunLock) -> None:
    """Let units in the making come to an end, unless a younger driver makes them too."""
    with suppress(OSError):
        if lock.successor() is not None:
            loop.stop(timeout_s=0.0)
            return
    loop.stop()


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("Generate synthetic samples with a run's creation weights.")
    parser.add_argument("--weights", type=int, metavar="VERSION", help="label with this version")
    parser.add_argument("--rounds", type=int, help="only the first rounds of the plan")
    parser.add_argument("--local", action="store_true", help="generate in this process, no Ray")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_job(main)
