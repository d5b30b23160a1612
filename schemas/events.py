"""Names of the events in a run's log: who emits an event and who reads it use these."""

from __future__ import annotations

from enum import StrEnum


class Event(StrEnum):
    """What a line of ``events/*.jsonl`` is about."""

    # The driver of a run.
    RUN_STARTED = "run_started"
    RUN_ENDED = "run_ended"
    RUN_FAILED = "run_failed"
    RUN_INTERRUPTED = "run_interrupted"
    # An older driver gave way; the state of the run is the younger one's business.
    RUN_FENCED = "run_fenced"
    # A field of the configuration that a run may change when it is resumed has another value.
    CONFIG_CHANGED = "config_changed"
    # Samples were added to the source of a run that has begun, and are learnt from.
    SOURCE_CHANGED = "source_changed"

    # Generation.
    GENERATION_PROGRESS = "generation_progress"
    GENERATION_PAUSED = "generation_paused"
    GENERATION_GOES_ON = "generation_goes_on"
    GENERATOR_STARTED = "generator_started"
    GENERATOR_LEAVING = "generator_leaving"
    GENERATOR_DRAINING = "generator_draining"
    NODE_DRAINING = "node_draining"
    UNIT_LEASED = "unit_leased"
    UNIT_DONE = "unit_done"
    UNIT_GIVEN_BACK = "unit_given_back"
    ATTEMPT_FAILED = "attempt_failed"

    # Training.
    TRAINER_PROGRESS = "trainer_progress"
    TRAINER_STARVED = "starved"
    VALIDATION = "validation"
    STAGE_ENDED = "stage_ended"
