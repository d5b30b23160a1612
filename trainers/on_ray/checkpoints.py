"""Checkpoints that Ray Train writes, in a folder for each driver of the run.

``checkpoints/<stage>/epoch-<epoch>/checkpoint_<…>/``: what a driver's trainer writes or removes is
its own, so that an elder driver that is late to notice its successor takes nothing from it. What to
resume from is read from the checkpoints themselves: Ray Train's own record of them is replaced in
place, and a driver that is killed at that moment would leave half of one.
"""

from __future__ import annotations

import json
import re
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train
import ray.train.collective
from ray.train import Checkpoint

from schemas.errors import RunFailedError
from schemas.run_layout import CHECKPOINTS_DIR
from trainers.checkpoint import CHECKPOINT_FILES, KEPT_CHECKPOINTS, STATE_FILE, first_whole

if TYPE_CHECKING:
    from storage.files.stores import RunStore
    from storage.records.run_lock import RunLock
    from trainers.checkpoint import CheckpointFiles

_EPOCH_DIR = re.compile(r"epoch-([0-9]{8})")
_CHECKPOINT_DIR = re.compile(r"checkpoint_[0-9].*")


def epoch_dir(epoch: int) -> str:
    """Folder of a driver's checkpoints within those of a stage."""
    return f"epoch-{epoch:08d}"


class RayCheckpoints:
    """Checkpoints of a stage, for restarted workers and for later drivers.

    Args:
        lock: The driver's hold on the run; looked at before each checkpoint.
    """

    def __init__(self, lock: RunLock, stage: str) -> None:
        self._lock = lock
        self._root = f"{CHECKPOINTS_DIR}/{stage}"
        self._num_saved = 0
        self._answered: tuple[Any, ...] | None = None

    def latest(self) -> CheckpointFiles | None:
        """See :meth:`trainers.checkpoint.Checkpoints.latest`; rank 0 chooses for all.

        Raises:
            RunFailedError: If what rank 0 chose cannot be read by another rank.
        """
        store = self._lock.store
        chosen: str | None = None
        files: CheckpointFiles | None = None
        if ray.train.get_context().get_world_rank() == 0:
            for folder in checkpoint_folders(store, self._root):
                if (files := first_whole([(folder, partial(_read, store, folder))])) is not None:
                    chosen = folder
                    break
        chosen = ray.train.collective.broadcast_from_rank_zero(chosen)
        if chosen is not None and files is None:
            files = first_whole([(chosen, partial(_read, store, chosen))])
            if files is None:
                raise RunFailedError(
                    f"{store.uri(chosen)}: wanted the checkpoint that rank 0 has read, found it "
                    "damaged or gone; all ranks choose again"
                )
        return files

    def save(self, files: CheckpointFiles | None, *, step: int) -> None:
        """See :meth:`trainers.checkpoint.Checkpoints.save`; a barrier for all ranks.

        Raises:
            FencedError: If a younger driver holds the run.
        """
        if files is None:
            ray.train.report({"step": step})
            return
        self._lock.expect_held()
        with tempfile.TemporaryDirectory() as folder:
            for name in CHECKPOINT_FILES:
                (Path(folder) / name).write_bytes(files[name])
            ray.train.report({"step": step}, checkpoint=Checkpoint.from_directory(folder))
        self._num_saved += 1
        if self._num_saved == KEPT_CHECKPOINTS:
            self._remove_older()

    def is_due(self) -> bool:
        """See :meth:`trainers.checkpoint.Checkpoints.is_due`; once for each notice."""
        notice = ray.train.get_preemption_info()
        if notice is None:
            return False
        named = (*notice.preempted_node_ids, notice.deadline_ms)
        is_new = named != self._answered
        self._answered = named
        return is_new

    def _remove_older(self) -> None:
        """Remove the checkpoints of earlier drivers: this one has as many as are kept."""
        store = self._lock.store
        for name in store.list_dir(self._root):
            epoch = _epoch_of(name)
            if epoch is not None and epoch < self._lock.epoch:
                with suppress(OSError):  # what stays is jobs/gc.py's business
                    store.remove(f"{self._root}/{name}")


def checkpoint_folders(store: RunStore, root: str) -> list[str]:
    """Folders of a stage's checkpoints: the youngest driver's first, of each the furthest first."""
    found: list[tuple[int, int, str]] = []
    for name in store.list_dir(root):
        epoch = _epoch_of(name)
        if epoch is None:
            continue
        # Of an earlier version of the project they lie in the stage's folder itself.
        inside = (
            [name] if epoch < 0 else [f"{name}/{each}" for each in _checkpoints(store, root, name)]
        )
        found += [(epoch, _step(store, f"{root}/{path}"), f"{root}/{path}") for path in inside]
    return [path for _, _, path in sorted(found, reverse=True)]


def _checkpoints(store: RunStore, root: str, name: str) -> list[str]:
    return [n for n in store.list_dir(f"{root}/{name}") if _CHECKPOINT_DIR.fullmatch(n)]


def _epoch_of(name: str) -> int | None:
    if _CHECKPOINT_DIR.fullmatch(name):
        return -1
    match = _EPOCH_DIR.fullmatch(name)
    return int(match.group(1)) if match else None


def _step(store: RunStore, folder: str) -> int:
    """Step of a checkpoint; -1 if it does not say."""
    try:
        return int(json.loads(_read(store, folder, STATE_FILE))["step"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return -1


def _read(store: RunStore, folder: str, name: str) -> bytes:
    return store.read_bytes(f"{folder}/{name}")
