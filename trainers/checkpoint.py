"""A stage's full training state as safetensors and JSON: a stopped stage goes on where it was.

Random draws of a step follow from (seed, stage, step, rank), so no generator state needs saving.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors.torch import load, save

from perception.state_file import load_state_bytes, state_to_bytes
from schemas.digest import sha256_of
from schemas.errors import RunFailedError, WeightsMismatchError
from schemas.run_layout import CHECKPOINTS_DIR

if TYPE_CHECKING:
    from storage.files.stores import RunStore
    from trainers.learner import Learner

CheckpointFiles = Mapping[str, bytes]
"""File name to content; ``STATE_FILE`` is written last and makes the checkpoint complete."""

ReadFile = Callable[[str], bytes]
"""Content of a file of a checkpoint; raises FileNotFoundError if there is none."""

KEPT_CHECKPOINTS = 2
CREATION_FILE = "creation.safetensors"
EXPLOITATION_FILE = "exploitation.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
CHECKPOINT_FILES = (CREATION_FILE, EXPLOITATION_FILE, OPTIMIZER_FILE, STATE_FILE)

logger = logging.getLogger(__name__)

_FORMAT = 1
_NUMBERS = ("format", "step", "seen_images", "ema_updates")


class Checkpoints(Protocol):
    """Where checkpoints go; every rank calls every method, at the same steps."""

    def latest(self) -> CheckpointFiles | None:
        """Read the newest whole checkpoint of this stage; None if there is none."""

    def save(self, files: CheckpointFiles | None, *, step: int) -> None:
        """Store a checkpoint; ``files`` is None on every rank but 0."""

    def is_due(self) -> bool:
        """Whether a machine of the group is about to go, so that a checkpoint is due now."""


def pack_checkpoint(learner: Learner, *, stage: str, stream: Mapping[str, Any]) -> CheckpointFiles:
    """Serialise a stage between two steps.

    Args:
        stage: Name of the stage, checked when the state is restored.
        stream: Position of the batch stream, a JSON object.
    """
    tensors = {
        CREATION_FILE: state_to_bytes(learner.creation),
        EXPLOITATION_FILE: state_to_bytes(learner.exploitation),
        OPTIMIZER_FILE: save(_optimizer_tensors(learner)),
    }
    state = {
        "format": _FORMAT,
        "stage": stage,
        "step": learner.step,
        "seen_images": learner.seen_images,
        "ema_updates": learner.ema_updates,
        "stream": dict(stream),
        "sha256": {name: sha256_of(data) for name, data in tensors.items()},
    }
    return {**tensors, STATE_FILE: json.dumps(state, sort_keys=True, indent=1).encode()}


def first_whole(candidates: Iterable[tuple[str, ReadFile]]) -> CheckpointFiles | None:
    """Read the first checkpoint whose files are all there and match their digests.

    Args:
        candidates: Name of each checkpoint and what reads one of its files; the newest first.

    Returns:
        Its files; None if none is whole. Those that are damaged are passed over and logged.
    """
    for name, read in candidates:
        try:
            files = {file: read(file) for file in CHECKPOINT_FILES}
        except FileNotFoundError as error:
            problem = f"{error} is missing"
        else:
            problem = _damage(files)
        if not problem:
            return files
        logger.warning("checkpoint_is_passed_over name=%s: %s", name, problem)
    return None


def _damage(files: CheckpointFiles) -> str:
    """What is wrong with a checkpoint; empty if nothing is."""
    try:
        state = json.loads(files[STATE_FILE])
        for field in _NUMBERS:
            int(state[field])
        # Checkpoints of an earlier version of the project hold no digests.
        digests: Mapping[str, str] = state.get("sha256", {})
        wrong = [name for name, wanted in digests.items() if sha256_of(files[name]) != wanted]
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        return f"{STATE_FILE} cannot be read ({error!r:.100})"
    return f"the digest of {', '.join(wrong)} differs" if wrong else ""


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
    """Checkpoints of a single-process stage in the run directory itself; the newest two are kept.

    Two, so that one that a disk has lost or damaged costs a few steps and not the stage.
    """

    def __init__(self, store: RunStore, stage: str) -> None:
        self._store = store
        self._root = f"{CHECKPOINTS_DIR}/{stage}/local"

    def latest(self) -> CheckpointFiles | None:
        """See :meth:`Checkpoints.latest`."""
        newest_first = sorted(self._store.list_dir(self._root), reverse=True)
        folders = (f"{self._root}/{name}" for name in newest_first)
        return first_whole((folder, partial(self._read, folder)) for folder in folders)

    def save(self, files: CheckpointFiles | None, *, step: int) -> None:
        """See :meth:`Checkpoints.save`."""
        if files is None:
            return
        folder = f"{self._root}/{step:08d}"
        for name in CHECKPOINT_FILES:
            self._store.write_bytes(f"{folder}/{name}", files[name])
        older = sorted(n for n in self._store.list_dir(self._root) if n < f"{step:08d}")
        for name in older[: 1 - KEPT_CHECKPOINTS]:
            self._store.remove(f"{self._root}/{name}")

    def is_due(self) -> bool:
        """See :meth:`Checkpoints.is_due`; nobody tells a process alone."""
        return False

    def _read(self, folder: str, file: str) -> bytes:
        return self._store.read_bytes(f"{folder}/{file}")


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
