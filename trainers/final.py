"""The end of a stage on disk: both sets of weights and what they reached."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from perception.state_file import state_digest, state_to_bytes
from schemas.run_layout import CHECKPOINTS_DIR
from trainers.checkpoint import CREATION_FILE, EXPLOITATION_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from storage.filesystem import RunStore
    from trainers.learner import Learner

FINAL_FILE = "final.json"


def final_dir(stage: str) -> str:
    """Folder of a stage's end, relative to the run's root."""
    return f"{CHECKPOINTS_DIR}/{stage}/final"


def write_final(
    store: RunStore, stage: str, learner: Learner, *, numbers: Mapping[str, Any]
) -> dict[str, Any]:
    """Write ``creation.safetensors``, ``exploitation.safetensors`` and, last, ``final.json``.

    Args:
        store: The run.
        stage: Name of the stage.
        learner: State after the last step.
        numbers: What else ``final.json`` should tell.

    Returns:
        Content of ``final.json``.
    """
    weights = {
        CREATION_FILE: state_to_bytes(learner.creation),
        EXPLOITATION_FILE: state_to_bytes(learner.exploitation),
    }
    for name, data in weights.items():
        store.write_bytes(f"{final_dir(stage)}/{name}", data)
    content: dict[str, Any] = {
        "stage": stage,
        "step": learner.step,
        "seen_images": learner.seen_images,
        "ema_updates": learner.ema_updates,
        "sha256": {name: state_digest(data) for name, data in weights.items()},
        **numbers,
    }
    text = json.dumps(content, sort_keys=True, indent=1)
    store.write_bytes(f"{final_dir(stage)}/{FINAL_FILE}", text.encode())
    return content


def has_final(store: RunStore, stage: str) -> bool:
    """Whether a stage has ended."""
    return store.exists(f"{final_dir(stage)}/{FINAL_FILE}")


def read_final(store: RunStore, stage: str) -> dict[str, Any] | None:
    """Read ``final.json``; None if the stage has not ended."""
    if not has_final(store, stage):
        return None
    content: dict[str, Any] = json.loads(store.read_bytes(f"{final_dir(stage)}/{FINAL_FILE}"))
    return content


def read_final_weights(store: RunStore, stage: str, name: str = CREATION_FILE) -> bytes:
    """Read one of the two weight files of a stage that has ended."""
    return store.read_bytes(f"{final_dir(stage)}/{name}")
