"""The whole loop: caption, warm up, generate and learn side by side, score, and show the result.

    python jobs/self_improve.py --config configs/rooms_demo.yaml

The same command resumes a run that was interrupted; storage is the truth about what is done.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pipeline.on_ray.captions import caption_source_on_ray
from pipeline.on_ray.coordinator import GenerationLoop
from runs.checks import expect_enough_samples, expect_models
from runs.command_line import config_from, make_parser, run_job
from runs.contact_sheet import contact_sheet_from_run
from runs.directory import claim_run_directory
from runs.driving import driving
from runs.event_tail import EventTail
from runs.generation import describe_plan, plan_of, stop_generation
from runs.on_ray import session as ray_session
from runs.on_ray.gauges import RaySignals
from runs.progress import ProgressDisplay, RunView
from runs.results import read_results, relative_gain, results_table, write_results
from schemas.errors import RunFailedError
from schemas.run_layout import CONTACT_SHEET_FILE
from storage.files.stores import open_store
from storage.manifests.table import ManifestReader
from storage.records.weights import list_versions
from trainers.final import has_final
from trainers.on_ray.train import train_stage_on_ray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.config import RunConfig
    from schemas.stages import Stage
    from storage.files.stores import RunStore
    from storage.records.run_lock import RunLock


@dataclass(kw_only=True)
class Loop:
    """The parts that the stages of one run share."""

    config: RunConfig
    lock: RunLock
    console: Console
    view: RunView
    seconds: dict[str, float]

    @property
    def store(self) -> RunStore:
        """The run directory."""
        return self.lock.store

    def timed(self, stage: str, work: Any) -> None:
        """Do one stage's work under its name, and note how long it took."""
        self.view.stage = stage
        self.console.print(f"[bold]{stage}[/bold]")
        started_s = time.monotonic()
        work()
        self.seconds[stage] = round(time.monotonic() - started_s, 1)


def main(arguments: Sequence[str]) -> None:
    """Run the loop that the command line describes."""
    parsed = make_parser("Run the self-improving loop.").parse_args(arguments)
    config = config_from(parsed)
    expect_models(config)
    console = Console()
    plan = plan_of(config)
    expect_enough_samples(config, plan)
    store = open_store(config.run.url)
    if parsed.dry_run:
        for line in describe_plan(config, plan, store):
            console.print(line)
        return
    claim_run_directory(store, config)
    finished = read_results(store)
    if finished:
        console.print(f"{config.run.url}: this run has ended; its results:")
    else:
        with driving(store, job="self_improve", roles=("generate", "train")) as lock:
            finished = run_loop(config, lock, console)
    report(finished, store, console)


def run_loop(config: RunConfig, lock: RunLock, console: Console) -> dict[str, Any]:
    """Bring a run to its end, from wherever it stands.

    Args:
        config: The run.
        lock: This driver's hold on it.
        console: Where to say how it goes.

    Returns:
        What results.json holds.

    Raises:
        RunFailedError: If too much fails to go on.
        FencedError: If a younger driver took the run over.
    """
    started_s, store = time.monotonic(), lock.store
    with ray_session.connect(config, console):
        loop = Loop(config=config, lock=lock, console=console, view=RunView(), seconds={})
        learn_and_generate(loop)
    # Here, since it loads the models' libraries, which takes seconds that the start need not wait.
    from runs.scoring import score_run

    console.print("[bold]evaluate[/bold]")
    results: dict[str, Any] = {**score_run(config, store), "seconds": loop.seconds}
    if config.training.synthetic_run is None:
        contact_sheet_from_run(config, store)
        results["counts"] = count_samples(store)
    results["seconds"]["total"] = round(time.monotonic() - started_s, 1)
    lock.expect_held()
    write_results(store, results)
    return results


def learn_and_generate(loop: Loop) -> None:
    """Caption, warm up, then generate while the control and the self-improving stage learn.

    A run that learns from another run's samples generates none.

    Raises:
        RunFailedError: If a part cannot go on; a failed generation is named before the training
            that starved for it.
    """
    config, store = loop.config, loop.store
    generation: list[GenerationLoop] = []
    tail = EventTail(store, event="trainer_progress")
    signals = RaySignals(config.run_id)

    def refresh(view: RunView) -> None:
        newest = tail.newest() or {}
        view.training = newest if newest.get("stage") == view.stage else {}
        view.generation = generation[0].gauges() if generation else {}
        signals.show(view)

    with ExitStack() as stack:
        stack.enter_context(ProgressDisplay(loop.console, loop.view, refresh))
        if config.training.synthetic_run is None:
            loop.timed("caption", lambda: caption_source_on_ray(config, store.url))
        train(loop, "warm_up")
        if config.training.synthetic_run is None:
            generation.append(GenerationLoop(config, store.url, lock=loop.lock))
            stack.callback(stop_generation, generation[0], loop.lock)
            generation[0].start()
        try:
            if config.evaluation.control:
                train(loop, "real_only_control")
            train(loop, "self_improve")
        except RunFailedError as error:
            if generation and generation[0].state == "failed":
                raise RunFailedError(f"generation stopped: {generation[0].reason}") from error
            raise
        for made in generation:
            loop.timed("last units", made.join)


def train(loop: Loop, stage: Stage) -> None:
    """Run one training stage under Ray Train, unless it has ended already."""
    if has_final(loop.store, stage):
        return
    loop.timed(stage, lambda: train_stage_on_ray(loop.config, stage, lock=loop.lock))


def count_samples(store: RunStore) -> dict[str, Any]:
    """Count committed samples by status and by the version that labelled them, and the versions.

    Raises:
        RunFailedError: If no synthetic sample was kept.
    """
    by_status: dict[str, int] = {}
    by_version: dict[str, int] = {}
    commits = ManifestReader(store).refresh()
    for row in (row for commit in commits for row in commit.rows):
        by_status[row.status] = by_status.get(row.status, 0) + 1
        if row.status == "ok":
            version = str(row.creation_version)
            by_version[version] = by_version.get(version, 0) + 1
    if not by_version:
        raise RunFailedError(
            f"{store.url}: wanted synthetic samples, all {sum(by_status.values())} failed or were "
            "filtered; `python jobs/status.py RUN` tells the reasons"
        )
    return {
        "units": len(commits),
        "samples_by_status": by_status,
        "pairs_by_creation_version": by_version,
        "published_versions": len(list_versions(store)),
    }


def report(results: dict[str, Any], store: RunStore, console: Console) -> None:
    """Print the table of scores, the gain over the control, and where to look."""
    console.print(results_table(results))
    gain = (
        relative_gain(results, "normals", "mean_deg") if "normals" in results["warm_up"] else None
    )
    if gain is not None:
        console.print(f"mean angular error against the real-only control: {-100 * gain:+.1f} %")
    console.print(f"results: {store.uri('results.json')}")
    console.print(f"contact sheet: {store.uri(CONTACT_SHEET_FILE)}")


if __name__ == "__main__":
    run_job(main)
