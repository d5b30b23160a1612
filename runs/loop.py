"""The whole loop on Ray: caption, warm up, generate and learn side by side, score."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.on_ray.captions import caption_source_on_ray
from pipeline.on_ray.coordinator import GenerationLoop
from runs.contact_sheet import contact_sheet_from_run
from runs.counting import counted
from runs.generation import stop_generation
from runs.on_ray import session as ray_session
from runs.on_ray.gauges import RaySignals
from runs.progress import ProgressDisplay, RunView
from runs.results import write_results
from runs.state import EventTail
from runs.status import count_rows
from schemas.errors import RunFailedError
from schemas.events import Event
from storage.manifests.table import ManifestReader
from storage.records.weights import list_versions
from trainers.final import has_final
from trainers.on_ray.train import train_stage_on_ray

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from schemas.config import RunConfig
    from schemas.stages import Stage
    from storage.files.stores import RunStore
    from storage.records.run_lock import RunLock


def run_loop(config: RunConfig, lock: RunLock, console: Console) -> dict[str, Any]:
    """Bring a run to its end; what is done already is not done again.

    Returns:
        What results.json holds.

    Raises:
        RunFailedError: If too much fails to go on.
        FencedError: If a younger driver took the run over.
    """
    started_s, store = time.monotonic(), lock.store
    with ray_session.connect(config, console):
        loop = _Loop(config=config, lock=lock, console=console)
        _learn_and_generate(loop)
    # Here, since it loads the models' libraries, which takes seconds that the start need not wait.
    from runs.scoring import class_scores, count_weights, final_states

    console.print("[bold]evaluate[/bold]")
    with counted("images", console=console) as on_done:
        boards = count_weights(config, store, final_states(store), on_done=on_done)
    results: dict[str, Any] = {name: board.compute() for name, board in boards.items()}
    if classes := {row: found for row, found in class_scores(config, boards).items() if found}:
        results["iou_per_class"] = classes
    results["seconds"] = loop.seconds
    if config.training.synthetic_run is None:
        contact_sheet_from_run(config, store)
        results["counts"] = _count_samples(store)
    results["seconds"]["total"] = round(time.monotonic() - started_s, 1)
    lock.expect_held()
    write_results(store, results)
    return results


@dataclass(kw_only=True)
class _Loop:
    """What the stages of one run share."""

    config: RunConfig
    lock: RunLock
    console: Console
    view: RunView = field(default_factory=RunView)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Show the name of a stage, and note how long it takes."""
        self.view.begin(stage)
        self.console.print(f"[bold]{stage}[/bold]")
        started_s = time.monotonic()
        yield
        self.seconds[stage] = round(time.monotonic() - started_s, 1)


def _learn_and_generate(loop: _Loop) -> None:
    """Caption, warm up, then generate while the control and the self-improving stage learn.

    A creator that learns does so before it makes anything.
    A run that learns from another run's samples generates none.

    Raises:
        RunFailedError: If a part cannot go on; a failed generation ends training at once.
    """
    config, store = loop.config, loop.lock.store
    generation: GenerationLoop | None = None
    tail = EventTail(store, Event.TRAINER_PROGRESS)
    signals = RaySignals(config.run_id)

    def refresh(view: RunView) -> None:
        newest = tail.newest()
        view.training = newest if newest.get("stage") == view.stage else {}
        view.generation = generation.gauges() if generation else {}
        signals.show(view)

    with ExitStack() as stack:
        stack.enter_context(ProgressDisplay(loop.console, loop.view, refresh))
        if config.training.synthetic_run is None:
            with loop.timed("caption"):
                caption_source_on_ray(config, store.url, on_done=loop.view.count)
        _train(loop, "warm_up")
        if config.training.creator is not None:
            _train(loop, "creator")
        if config.training.synthetic_run is None:
            generation = GenerationLoop(config, store.url, lock=loop.lock)
            stack.callback(stop_generation, generation, loop.lock)
            generation.start()
        if config.evaluation.control:
            _train(loop, "real_only_control", generation)
        _train(loop, "self_improve", generation)
        if generation:
            with loop.timed("last units"):
                generation.join()


def _train(loop: _Loop, stage: Stage, generation: GenerationLoop | None = None) -> None:
    """Run one training stage under Ray Train, unless it has ended already.

    Raises:
        RunFailedError: If it cannot go on, or the generation beside it has failed.
    """

    def expect_generation() -> None:
        if generation and generation.state == "failed":
            raise RunFailedError(f"generation stopped: {generation.reason}")

    if not has_final(loop.lock.store, stage):
        with loop.timed(stage):
            try:
                train_stage_on_ray(loop.config, stage, lock=loop.lock, look=expect_generation)
            except RunFailedError:
                expect_generation()
                raise


def _count_samples(store: RunStore) -> dict[str, Any]:
    """Count committed samples and published versions.

    Raises:
        RunFailedError: If no synthetic sample was kept.
    """
    commits = ManifestReader(store).refresh()
    counts = count_rows(row for commit in commits for row in commit.rows)
    if not counts["by_creation_version"]:
        raise RunFailedError(
            f"{store.url}: wanted synthetic samples, all {sum(counts['by_status'].values())} "
            "failed or were filtered; `python jobs/status.py RUN` shows the reasons"
        )
    return {
        "units": len(commits),
        "samples_by_status": counts["by_status"],
        "pairs_by_creation_version": counts["by_creation_version"],
        "published_versions": len(list_versions(store)),
    }
