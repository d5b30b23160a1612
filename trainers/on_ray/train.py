"""Stages under Ray Train: processes, threads, checkpoints and restarts around ``train_stage``."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

import ray.train
import ray.train.torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig

from schemas.errors import RunFailedError, UserError
from schemas.run_layout import CHECKPOINTS_DIR
from storage.files.stores import open_store, streaming_filesystem
from storage.records.run_lock import RunLock
from trainers.checkpoint import KEPT_CHECKPOINTS
from trainers.final import read_final
from trainers.on_ray.checkpoints import epoch_dir

if TYPE_CHECKING:
    from collections.abc import Callable

    from schemas import config as schema
    from schemas.stages import Stage
    from storage.files.stores import RunStore

LOOK_S = 1.0

_MAX_FAILURES = 3
_STOPPED = "stopped"


def train_stage_on_ray(
    config: schema.RunConfig,
    stage: Stage,
    lock: RunLock | None = None,
    *,
    look: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Train a stage with Ray Train and wait for its end; a stage that was stopped goes on.

    The caller has connected to Ray. Ctrl-C raises KeyboardInterrupt at once; the workers end with
    the caller's connection.

    Args:
        stage: Which stage; all but ``warm_up`` and ``creator`` need version 0 in the store.
        lock: The driver's hold on the run; None if it took none.
        look: Called each second meanwhile; what it raises ends the wait, as Ctrl-C does.

    Returns:
        Content of ``checkpoints/<stage>/final/final.json``.

    Raises:
        RunFailedError: If the stage cannot go on, or failed too often, or a younger driver holds
            the run.
    """
    store = open_store(config.run.url)
    if (ended := read_final(store, stage)) is not None:
        return ended
    # Workers stay in the directory of the job, against which its relative paths were written.
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    result = wait_for(_make_trainer(config, stage, lock or RunLock(store=store)), look)
    if (stopped := (result.return_value or {}).get(_STOPPED)) is not None:
        raise RunFailedError(stopped)
    ended = read_final(store, stage)
    if ended is None:
        raise RunFailedError(
            f"{store.url}: wanted the end of stage {stage}, found none although its workers have "
            "finished; start the same command again"
        )
    return ended


def _make_trainer(config: schema.RunConfig, stage: Stage, lock: RunLock) -> Any:
    training, store = config.training, lock.store
    resources: dict[str, float] = {"CPU": training.cpus_per_worker}
    if training.use_gpu:
        resources["GPU"] = 1
    threads = str(training.cpus_per_worker)
    # Ray's annotations describe the first version of Train, its behaviour is the second's.
    make_trainer: Any = ray.train.torch.TorchTrainer
    run_config: Any = RunConfig
    make_scaling: Any = ScalingConfig
    return make_trainer(
        _train_on_worker,
        train_loop_config={"config": config, "stage": stage, "lock": lock},
        scaling_config=make_scaling(
            num_workers=training.num_workers,
            use_gpu=training.use_gpu,
            resources_per_worker=resources,
            label_selector=config.ray.trainer_labels or None,
        ),
        run_config=run_config(
            name=epoch_dir(lock.epoch),
            **_ray_storage(store, stage),
            failure_config=FailureConfig(max_failures=_MAX_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
            worker_runtime_env={
                "env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
            },
        ),
    )


def _ray_storage(store: RunStore, stage: Stage) -> dict[str, Any]:
    """Tell Ray where checkpoints go; a remote store is reached through fsspec, as everywhere."""
    if "://" not in store.url:
        return {"storage_path": f"{store.url}/{CHECKPOINTS_DIR}/{stage}"}
    import pyarrow.fs

    fs, root = streaming_filesystem(store.url)
    handler = pyarrow.fs.FSSpecHandler(fs)
    return {
        "storage_path": f"{root}/{CHECKPOINTS_DIR}/{stage}",
        "storage_filesystem": pyarrow.fs.PyFileSystem(handler),
    }


def wait_for(trainer: Any, look: Callable[[], None] | None) -> Any:
    """Run ``fit`` in a thread: in the main one it takes over SIGINT, and exits with status 0.

    Args:
        look: As for :func:`train_stage_on_ray`.

    Raises:
        RunFailedError: If the workers failed too often.
    """
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(trainer.fit())
        except BaseException as error:  # noqa: BLE001 - handed to the waiting thread as it is
            future.set_exception(error)

    threading.Thread(target=run, name="ray-train", daemon=True).start()
    try:
        while not wait([future], timeout=LOOK_S).done:
            if look is not None:
                look()
        return future.result()
    except ray.train.TrainingFailedError as error:
        raise RunFailedError(
            f"training failed {_MAX_FAILURES + 1} times, the last time with: {_root_cause(error)}; "
            "mend that and start the same command again"
        ) from error


def _root_cause(error: BaseException) -> str:
    workers: dict[int, BaseException] = getattr(error, "worker_failures", {})
    first = next(iter(workers.values()), error)
    return str(first).strip().rsplit("\n", 1)[-1]


def _train_on_worker(loop: dict[str, Any]) -> dict[str, Any]:
    """Train on one rank; what no restart can mend is returned instead of raised.

    Ray's controller imports this module as well and trains nothing. So the libraries of the models,
    which take seconds to load, are imported here.
    """
    from trainers.on_ray.worker import train_on_worker
    from trainers.train_stage import StageStoppedError

    try:
        return train_on_worker(loop)
    except (StageStoppedError, UserError) as error:
        # All ranks come here together, so none is left waiting for the others.
        return {_STOPPED: str(error)}
