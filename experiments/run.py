"""Make the runs of an ablation, each in a process of its own, from beginnings made once."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch

from experiments.size import size_of
from pipeline.make.build import open_captioner
from pipeline.make.caption import caption_source
from runs.directory import claim_run_directory
from runs.local_loop import generate_first_round, run_locally
from runs.results import read_results, write_results
from runs.scoring import final_states, score_weights
from schemas.config_file import dump_config
from schemas.errors import AlreadyCommittedError, RunFailedError, UserError
from schemas.run_layout import (
    CAPTIONS_DIR,
    CONFIG_FILE,
    SHARDS_DIR,
    UNITS_DIR,
    round_dir,
    weights_dir,
)
from sources.open import open_run_source
from storage.files.stores import open_store
from storage.manifests.table import ManifestReader
from trainers.final import final_dir, has_final
from trainers.train_stage import train_stage_locally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future

    from rich.console import Console

    from experiments.plan import AblationRun
    from schemas.config import RunConfig
    from storage.files.stores import RunStore

_WARM_UP_FOLDERS = (CAPTIONS_DIR, weights_dir(0), final_dir("warm_up"))
_IMAGE_FOLDERS = (
    *(weights_dir(0, "creator"), final_dir("creator")),
    f"{SHARDS_DIR}/{round_dir(0)}",
    f"{UNITS_DIR}/{round_dir(0)}",
    *_WARM_UP_FOLDERS,
)
_COMMIT_POINTS = ("manifest.json", "final.json")


def make_runs(runs: Sequence[AblationRun], processes: int, console: Console) -> list[str]:
    """Make the shared beginnings, then the runs that have not ended, several at a time.

    Returns:
        A line for each run that failed; the others are not held up.
    """
    distinct = {run.config.run.url: run for run in sorted(runs, key=_is_scored, reverse=True)}
    open_runs = [r for r in distinct.values() if read_results(open_store(r.config.run.url)) is None]
    to_score = [r for r in runs if _is_scored(r) and _read_own(r) is None]
    warm_ups = _distinct(run.warm_up for run in open_runs)
    images = {run.images.run.url: run for run in open_runs if run.images}
    # Processes are spawned: a fork would copy torch's thread pools in an unknown state.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        phases: list[dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]] = [
            {f"warm-up {c.run.url}": (make_warm_up, (c,)) for c in warm_ups},
            {f"images {u}": (make_images, (r.images, r.warm_up)) for u, r in images.items()},
            {_name(r): (make_run, (r,)) for r in open_runs if not r.needs_donor},
            {_name(r): (make_run, (r,)) for r in open_runs if r.needs_donor},
            {_name(r): (make_scores, (r,)) for r in to_score},
        ]
        failures: list[str] = []
        for phase in phases:
            futures = {pool.submit(work, *given): name for name, (work, given) in phase.items()}
            failures += _collect(futures, console)
    return failures


def _is_scored(run: AblationRun) -> bool:
    return run.scored_as is not None


def _read_own(run: AblationRun) -> dict[str, Any] | None:
    return read_results(open_store(run.config.run.url), file=run.results_file)


def _name(run: AblationRun) -> str:
    return f"{run.row}, seed {run.seed}"


def _collect(futures: dict[Future[Any], str], console: Console) -> list[str]:
    failures = []
    started_s = time.monotonic()
    for done, future in enumerate(as_completed(futures), start=1):
        name = futures[future]
        try:
            future.result()
        except (UserError, RunFailedError, OSError) as error:
            failures.append(f"{name}: {error}")
            console.print(f"[red]failed[/red] {name}: {error}", soft_wrap=True)
            continue
        elapsed_s = time.monotonic() - started_s
        console.print(f"{elapsed_s:6.0f} s  {done}/{len(futures)}  {name}", soft_wrap=True)
    return failures


def _distinct(configs: Iterable[RunConfig]) -> list[RunConfig]:
    return list({config.run.url: config for config in configs}.values())


def make_warm_up(config: RunConfig) -> None:
    """Caption and warm up; what is done already stays."""
    _use_one_thread()
    store = _open_beginning(config)
    if has_final(store, "warm_up"):
        return
    caption_source(store, open_run_source(config), open_captioner(config))
    train_stage_locally(config, "warm_up")


def make_images(config: RunConfig, warm_up: RunConfig) -> None:
    """Make the first round on top of a warm-up; what is done already stays."""
    _use_one_thread()
    store = _open_beginning(config)
    adopt(store, open_store(warm_up.run.url), _WARM_UP_FOLDERS)
    generate_first_round(config, store)


def make_run(run: AblationRun) -> dict[str, Any]:
    """Bring a run to its end.

    Returns:
        Content of its results.json.
    """
    _use_one_thread()
    store = open_store(run.config.run.url)
    config = claim_run_directory(store, run.config)
    finished = read_results(store)
    if finished is not None:
        return finished
    if run.images is not None and not ManifestReader(store).refresh():
        adopt(store, open_store(run.images.run.url), _IMAGE_FOLDERS)
    elif not has_final(store, "warm_up"):
        adopt(store, open_store(run.warm_up.run.url), _WARM_UP_FOLDERS)
    scores = run_locally(config, store, result=run.result)
    adopted_from = (run.images or run.warm_up).run.url
    results = {**scores, "adopted_from": adopted_from, "size": size_of(config)}
    write_results(store, results)
    return results


def make_scores(run: AblationRun) -> dict[str, Any]:
    """Score the weights of a run that has ended with the options of another row.

    Returns:
        Content of the row's file of scores.

    Raises:
        RunFailedError: If the run has not ended.
    """
    _use_one_thread()
    store = open_store(run.config.run.url)
    config = run.scored_as or run.config
    finished = read_results(store, file=run.results_file)
    if finished is not None:
        return finished
    if read_results(store) is None:
        raise RunFailedError(f"{store.url}: the run whose weights are scored has not ended")
    states: dict[str, bytes] = {run.result: final_states(store)[run.result]}
    scores = {**score_weights(config, store, states), "size": size_of(config)}
    write_results(store, scores, file=run.results_file)
    return scores


def adopt(store: RunStore, other: RunStore, folders: tuple[str, ...]) -> None:
    """Copy folders of another run, commit points last; doing it twice does no harm."""
    for folder in folders:
        for path in sorted(_files(other, folder), key=_commits):
            if not store.exists(path):
                store.write_bytes(path, other.read_bytes(path))


def _files(store: RunStore, folder: str) -> list[str]:
    # Names with a leading dot are what a killed writer left behind.
    return [path for path in store.find(folder) if "/." not in path]


def _commits(path: str) -> bool:
    return path.endswith(_COMMIT_POINTS)


def _open_beginning(config: RunConfig) -> RunStore:
    """Open a folder that several configurations share: its name says all that decides it."""
    store = open_store(config.run.url)
    with suppress(AlreadyCommittedError):
        store.put_if_absent(CONFIG_FILE, dump_config(config.noting_recipe()).encode())
    return store


def _use_one_thread() -> None:
    # Runs share the machine's cores between them; more threads a run would only contend.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
