"""Whether anything was made for a run: until then its configuration and source may change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.run_layout import (
    CAPTIONS_DIR,
    CHECKPOINTS_DIR,
    COMPACTED_DIR,
    CREATOR_DIR,
    RESULTS_FILE,
    UNITS_DIR,
    WEIGHTS_DIR,
)

if TYPE_CHECKING:
    from storage.files.stores import RunStore

_MADE = (CAPTIONS_DIR, UNITS_DIR, COMPACTED_DIR, WEIGHTS_DIR, CREATOR_DIR)


def has_begun(store: RunStore) -> bool:
    """Whether a directory holds captions, units, weights, or a stage's checkpoint."""
    if any(store.list_dir(folder) for folder in _MADE) or store.exists(RESULTS_FILE):
        return True
    # Ray makes folders and files of its own there before the first step.
    return any(name.endswith(".safetensors") for name in store.find(CHECKPOINTS_DIR))
