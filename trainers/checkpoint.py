"""A stage's full training state as safetensors and JSON: a stopped stage goes on where it was.

Random draws of a step follow from (seed, stage, step, rank), so no generator state needs saving.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors.torch import load, save

from perception.state_file import load_state_bytes, state_to_bytes
from schemas.errors import RunFailedError, WeightsMismatchError
from schemas.run_layout import CHECKPOINTS_DIR

if TYPE_CHECKING:
    from storage.filesystem import RunStore
    from trainers.learner import Learner

CheckpointFiles = Mapping[str, bytes]
"""File name to content; ``STATE_FILE`` is written last and makes the checkpoint complete."""

CREATION_FILE = "creation.safetensors"
EXPLOITATION_FILE = "exploitation.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
CHECKPOINT_FILES = (CREATION_FILE, EXPLOITATION_FILE, OPTIMIZER_FILE, STATE_FILE)

_FORMAT = 1


class Checkpoints(Protocol):
    """Where checkpoints go; every rank calls every method, at the same steps."""

    def latest(self) -> CheckpointFiles | None:
        """Read the newest complete checkpoint of this stage; None if there is none."""

    def save(self, files: CheckpointFiles | None, *, step: int) -> None:
        """Store a checkpoint; ``files`` is None on every rank but 0."""


def pack_checkpoint(learner: Learner, *, stage: str, stream: Mapping[str, Any]) -> CheckpointFiles:
    """Serialise a stage between two steps.

    Args:
        learner: Weights, optimiser and counts.
        stage: Name of the stage, checked when the state is restored.
        stream: Position of the batch stream, a JSON object.
    """
    state = {
        "format": _FORMAT,
        "stage": stage,
        "step": learner.step,
        "seen_images": learner.seen_images,
        "ema_updates": learner.ema_updates,
        "stream": dict(stream),
    }
    return {
        CREATION_FILE: state_to_bytes(learner.creation),
        EXPLOITATION_FILE: state_to_bytes(learner.exploitation),
        OPTIMIZER_FILE: save(_optimizer_tensors(learner)),
        STATE_FILE: json.dumps(state, sort_keys=True, indent=1).encode(),
    }


def restore_checkpoint(learner: Learner, files: CheckpointFiles, *, stage: str) -> dict[str, Any]:
    """Put a learner into the state that :func:`pack_checkpoint` described.

    Args:
        learner: Made from the same configuration; changed in place.
        files: What :func:`pack_checkpoint` returned.
        stage: Name of the stage that is to go on.

    Returns:
        The position of the batch stream.

    Raises:
        WeightsMismatchError: If the tensors do not fit the learner.
        RunFailedError: If the checkpoint belongs to another stage or format.
    """
    state: dict[str, Any] = json.loads(files[STATE_FILE])
    if (state["format"], state["stage"]) != (_FORMAT, stage):
        raise RunFailedError(
            f"wanted a checkpoint of stage {stage} in format {_FORMAT}, found stage "
            f"{state['stage']} in format {state['format']}; remove it or use another run directory"
        )
    load_state_bytes(learner.creation, files[CREATION_FILE])
    load_state_bytes(learner.exploitation, files[EXPLOITATION_FILE])
    _load_optimizer(learner, load(files[OPTIMIZER_FILE]))
    learner.step = int(state["step"])
    learner.seen_images = int(state["seen_images"])
    learner.ema_updates = int(state["ema_updates"])
    return dict(state["stream"])


class StoredCheckpoints:
    """Checkpoints of a single-process stage in the run directory itself; the newest one is kept."""

    def __init__(self, store: RunStore, stage: str) -> None:
        self._store = store
        self._root = f"{CHECKPOINTS_DIR}/{stage}/local"

    def latest(self) -> CheckpointFiles | None:
        """See :meth:`Checkpoints.latest`."""
        for name in sorted(self._store.list_dir(self._root), reverse=True):
            folder = f"{self._root}/{name}"
            if self._store.exists(f"{folder}/{STATE_FILE}"):
                return {
                    file: self._store.read_bytes(f"{folder}/{file}") for file in CHECKPOINT_FILES
                }
        return None

    def save(self, files: CheckpointFiles | None, *, step: int) -> None:
        """See :meth:`Checkpoints.save`."""
        if files is None:
            return
        folder = f"{self._root}/{step:08d}"
        for name in CHECKPOINT_FILES:
            self._store.write_bytes(f"{folder}/{name}", files[name])
        for name in self._store.list_dir(self._root):
            if name < f"{step:08d}":
                self._store.fs.rm(f"{self._store.root}/{self._root}/{name}", recursive=True)


def _optimizer_tensors(learner: Learner) -> dict[str, torch.Tensor]:
    names = [name for name, _ in learner.exploitation.named_parameters()]
    state: dict[int, dict[str, Any]] = learner.optimizer.state_dict()["state"]
    return {
        f"{names[index]}/{field}": torch.as_tensor(value).detach().cpu().contiguous().clone()
        for index, fields in state.items()
        for field, value in fields.items()
    }


def _load_optimizer(learner: Learner, tensors: Mapping[str, torch.Tensor]) -> None:
    index_of = {name: i for i, (name, _) in enumerate(learner.exploitation.named_parameters())}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, field = key.rpartition("/")
        if name not in index_of:
            raise WeightsMismatchError(
                f"wanted optimiser tensors of the method's parameters, found {name}; "
                "use a checkpoint of the same method"
            )
        state.setdefault(index_of[name], {})[field] = tensor
    groups = learner.optimizer.state_dict()["param_groups"]
    learner.optimizer.load_state_dict({"state": state, "param_groups": groups})
