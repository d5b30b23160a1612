"""The end of a stage on disk: both sets of weights and what they reached."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from perception.state_file import state_to_bytes
from schemas.digest import sha256_of
from schemas.errors import AlreadyCommittedError, DamagedShardError
from schemas.run_layout import CHECKPOINTS_DIR
from trainers.checkpoint import CREATION_FILE, EXPLOITATION_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from storage.files.stores import RunStore
    from trainers.learner import Learner

FINAL_FILE = "final.json"


def final_dir(stage: str) -> str:
    """Folder of a stage's end, relative to the run's root."""
    return f"{CHECKPOINTS_DIR}/{stage}/final"


def write_final(
    store: RunStore, stage: str, learner: Learner, *, numbers: Mapping[str, Any]
) -> dict[str, Any]:
    """Write ``creation.safetensors``, ``exploitation.safetensors`` and, last, ``final.json``.

    The first end of a stage stands. A trainer that died before its ``final.json`` may have left
    other weights under these names: they stay, and ours lie beside them, named by their digest.

    Args:
        numbers: What else ``final.json`` should tell.

    Returns:
        Content of ``final.json``.
    """
    weights = {
        CREATION_FILE: state_to_bytes(learner.creation),
        EXPLOITATION_FILE: state_to_bytes(learner.exploitation),
    }
    digests = {_write_weights(store, stage, *each): sha256_of(each[1]) for each in weights.items()}
    content: dict[str, Any] = {
        "stage": stage,
        "step": learner.step,
        "seen_images": learner.seen_images,
        "ema_updates": learner.ema_updates,
        "sha256": digests,
        **numbers,
    }
    text = json.dumps(content, sort_keys=True, indent=1)
    try:
        store.put_if_absent(f"{final_dir(stage)}/{FINAL_FILE}", text.encode())
    except AlreadyCommittedError:
        # Another driver's trainer came first; or ours did, and the answer was lost.
        return read_final(store, stage) or content
    return content


def has_final(store: RunStore, stage: str) -> bool:
    """Whether a stage has ended."""
    return store.exists(f"{final_dir(stage)}/{FINAL_FILE}")


def read_final(store: RunStore, stage: str) -> dict[str, Any] | None:
    """Read ``final.json``; None if the stage has not ended.

    Raises:
        DamagedShardError: If the file is not what :func:`write_final` writes.
    """
    if not has_final(store, stage):
        return None
    path = f"{final_dir(stage)}/{FINAL_FILE}"
    try:
        content = json.loads(store.read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DamagedShardError(_not_final(store, path, str(error))) from error
    if not isinstance(content, dict) or content.get("stage") != stage:
        raise DamagedShardError(_not_final(store, path, repr(content)[:80]))
    return content


def _not_final(store: RunStore, path: str, found: str) -> str:
    return (
        f"{store.uri(path)}: wanted the end of a stage, found {found}; copy it from a good copy of "
        "the run, or remove it: the stage then goes on from its last checkpoint"
    )


def read_final_weights(store: RunStore, stage: str, name: str = CREATION_FILE) -> bytes:
    """Read one of the two weight files of a stage that has ended."""
    stem = name.partition(".")[0]
    named = (read_final(store, stage) or {}).get("sha256", {})
    file = next((each for each in named if re.split(r"[.-]", each)[0] == stem), name)
    return store.read_bytes(f"{final_dir(stage)}/{file}")


def _write_weights(store: RunStore, stage: str, name: str, data: bytes) -> str:
    """Write weights under their name, or beside another trainer's; returns the file's name."""
    path = f"{final_dir(stage)}/{name}"
    try:
        store.put_if_absent(path, data)
    except AlreadyCommittedError:
        if store.read_bytes(path) != data:
            stem, _, suffix = name.rpartition(".")
            name = f"{stem}-{sha256_of(data)[:16]}.{suffix}"
            store.write_bytes(f"{final_dir(stage)}/{name}", data)
    return name
