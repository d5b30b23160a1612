"""Generation as a job drives it: the plan, in this process or on Ray, and its end."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pipeline.loop.control import GenerationControl
from pipeline.loop.ledger import UnitLedger
from pipeline.loop.local_runner import run_units
from pipeline.loop.plan import make_plan, plan_summary
from pipeline.make.build import open_captioner, open_generator
from pipeline.make.caption import caption_source
from runs.counting import counted
from runs.progress import ProgressDisplay, RunView
from schemas.errors import ConfigError, RunFailedError
from sources.open import open_run_source
from storage.manifests.table import OutcomeReader
from storage.records.weights import list_versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from pipeline.on_ray.coordinator import GenerationLoop
    from schemas.config import RunConfig
    from schemas.unit import Unit
    from sources.protocol import LabelledSource
    from storage.files.stores import RunStore
    from storage.records.run_lock import RunLock


def plan_of(
    config: RunConfig, source: LabelledSource | None = None, *, rounds: int | None = None
) -> tuple[Unit, ...]:
    """The run's plan, or its first rounds.

    Args:
        source: The run's, if it is open.
    """
    plan = make_plan(config, (source or open_run_source(config)).shards("train"))
    return tuple(unit for unit in plan if rounds is None or unit.round < rounds)


def describe_plan(
    config: RunConfig, plan: Sequence[Unit], store: RunStore, *, image_size: tuple[int, int]
) -> list[str]:
    """Say what would be done, with times if the run has measured any.

    Args:
        image_size: Rows and columns of the source's images.
    """
    ledger = UnitLedger(config, plan, history=OutcomeReader(store).refresh())
    summary = plan_summary(
        config,
        plan,
        image_size=image_size,
        committed=[unit.unit_id for unit in plan if not ledger.is_open(unit)],
        cost=ledger.totals.cost(),
    )
    return summary.lines()


def check_weights(config: RunConfig, store: RunStore, version: int | None) -> None:
    """Check that the run has the creation weights to label with, and its creator what it learnt.

    Raises:
        ConfigError: If it has none, or not the wanted version.
    """
    if config.training.creator is not None and not list_versions(store, series="creator"):
        raise ConfigError(
            f"training.creator: {store.url} has no weights of its creator yet; run jobs/train.py "
            "with --stage creator, or jobs/self_improve.py, on the same configuration first"
        )
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
        Figures as ``GenerationControl.progress`` gives them, and why it ended.

    Raises:
        RunFailedError: If too much failed.
    """
    store = lock.store
    caption_source(store, open_run_source(config), open_captioner(config))
    control = GenerationControl(
        config, store, plan, pinned_version=version, weights_final=True, lock=lock
    )

    def tell(unit: Unit) -> None:
        figures = control.progress()
        console.print(
            f"committed {unit.kind} unit {unit.unit_id}: {figures['units_committed']} of "
            f"{figures['units_planned']}"
        )

    ended = run_units(
        control,
        open_generator(config, store),
        store,
        pinned_version=version,
        on_unit=tell,
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
        Figures as :meth:`pipeline.on_ray.coordinator.GenerationLoop.gauges` gives them.

    Raises:
        RunFailedError: If too much failed.
    """
    from pipeline.on_ray.captions import caption_source_on_ray
    from pipeline.on_ray.coordinator import GenerationLoop
    from runs.on_ray import session as ray_session
    from runs.on_ray.gauges import RaySignals

    with ray_session.connect(config, console, roles=lock.roles):
        with counted("images captioned", console=console) as on_done:
            caption_source_on_ray(config, lock.store.url, on_done=on_done)
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
