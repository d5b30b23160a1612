"""The whole loop in one process, without Ray: generation and training take turns.

Each time a version is published training stands still until every unit that may be worked on is
committed, so that equal configurations give equal results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.loop.control import GenerationControl
from pipeline.loop.local_runner import run_units
from pipeline.make.build import open_captioner, open_generator
from pipeline.make.caption import caption_source
from runs.generation import plan_of
from runs.scoring import score_run
from schemas.errors import RunFailedError
from schemas.stages import STAGES_OF_RESULT
from sources.open import open_run_source
from trainers.final import has_final
from trainers.train_stage import train_stage_locally

if TYPE_CHECKING:
    from schemas.config import RunConfig
    from schemas.stages import ResultRow
    from storage.files.stores import RunStore


def run_locally(config: RunConfig, store: RunStore, *, result: ResultRow) -> dict[str, Any]:
    """Bring a run to the weights that a row of its results needs, and score all that it has.

    Returns:
        Row of results.json to task to metric to value.

    Raises:
        RunFailedError: If a stage cannot go on, or too much fails.
    """
    for stage in STAGES_OF_RESULT[result]:
        if stage == "self_improve":
            improve_locally(config, store)
        elif not has_final(store, stage):
            train_stage_locally(config, stage)
    return score_run(config, store)


def improve_locally(config: RunConfig, store: RunStore) -> None:
    """Generate and self-improve in turns, or learn from another run's samples; needs version 0.

    Raises:
        RunFailedError: As :func:`run_locally`.
    """
    if config.training.synthetic_run is not None:
        train_stage_locally(config, "self_improve")
        return
    work = LocalGeneration(config, store)
    work()
    work.expect_samples(config.training.min_synthetic_samples)
    if not has_final(store, "self_improve"):
        train_stage_locally(config, "self_improve", after_publish=work)


def generate_first_round(config: RunConfig, store: RunStore) -> None:
    """Make and label the images of round 0 with version 0.

    Raises:
        RunFailedError: As :func:`run_locally`.
    """
    LocalGeneration(config, store, rounds=1)()


class LocalGeneration:
    """Works on a run's units whenever it is called, until nothing may be worked on.

    A creator that learns does so before the first unit.

    Args:
        rounds: Only the first rounds of the plan; None: all.
    """

    def __init__(self, config: RunConfig, store: RunStore, *, rounds: int | None = None) -> None:
        caption_source(store, open_run_source(config), open_captioner(config))
        if config.training.creator is not None:
            train_stage_locally(config, "creator")
        self._store = store
        self._generator = open_generator(config, store)
        self._control = GenerationControl(config, store, plan_of(config, rounds=rounds))

    def __call__(self) -> None:
        """Work.

        Raises:
            RunFailedError: If too much failed.
        """
        ended = run_units(self._control, self._generator, self._store)
        if ended.kind == "failed":
            raise RunFailedError(f"generation stopped: {ended.reason}")

    def expect_samples(self, wanted: int) -> None:
        """Check that training will not wait for samples that nobody else makes.

        Raises:
            RunFailedError: If fewer were kept.
        """
        progress = self._control.progress()
        kept = progress["samples_ok"]
        if kept < wanted:
            raise RunFailedError(
                f"{self._store.url}: wanted {wanted} synthetic samples to begin with, kept {kept}; "
                f"reasons of the others: {progress['reasons']}; train the warm-up longer, or "
                "loosen screening and labelling, or lower training.min_synthetic_samples"
            )
