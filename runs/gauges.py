"""The figures of a run that monitoring may follow: names, meaning, where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runs.state import name_of_starved

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runs.progress import RunView

PREFIX = "synth_"
STATES = (
    "running",
    "starved",
    "waiting_for_weights",
    "paused",
    "draining",
    "finished",
    "failed",
)
_STATE_OF_GENERATION = {"lease": "running", "waiting": "running"}


@dataclass(frozen=True, slots=True)
class Signal:
    """One gauge.

    All are gauges: totals are read from storage, so that they go on where they were after a
    restart, which a counter of the driver would not.

    Attributes:
        name: As given to Ray, which puts ``ray_`` before it.
        description: What it says, with its unit.
        tag: Its tag beside ``run_id``; empty for none.
    """

    name: str
    description: str
    tag: str = ""


GENERATION = {
    "units_planned": Signal("synth_units_planned", "Units of the plan"),
    "units_committed": Signal("synth_units_committed", "Units that are committed"),
    "units_leased": Signal("synth_units_leased", "Queue: units handed to generators"),
    "generators": Signal("synth_generators", "Generators that are wanted or running"),
    "generators_ready": Signal("synth_generators_ready", "Generators with loaded models"),
    "generators_draining": Signal("synth_generators_draining", "Generators that have to leave"),
    "images_per_s": Signal("synth_generated_images_per_s", "Synthetic images a second"),
    "busy_share": Signal("synth_generator_busy_share", "Share of time that generators work"),
    "torn_manifests": Signal("synth_torn_manifests", "Manifests that cannot be read"),
}
TRAINING = {
    "step": Signal("synth_training_step", "Step of the training stage"),
    "loss": Signal("synth_training_loss", "Loss of the last step"),
    "images_per_s": Signal("synth_trained_images_per_s", "Images learnt from a second"),
    "staleness_mean": Signal("synth_staleness_mean", "Versions that samples are behind, mean"),
    "staleness_max": Signal("synth_staleness_max", "Versions that samples are behind, greatest"),
    "synthetic_fraction": Signal("synth_synthetic_fraction", "Share of synthetic samples"),
    "publish_lag": Signal("synth_publish_lag_steps", "Steps since the newest published version"),
    "version": Signal("synth_version", "Newest published creation weights"),
}
STATE = Signal("synth_run_state", "1 for the state that the run is in, 0 for the others", "state")
SAMPLES = Signal("synth_samples", "Committed samples by status", "status")
REASONS = Signal("synth_samples_by_reason", "Samples failed or filtered, by reason", "reason")
SIGNALS = (*GENERATION.values(), *TRAINING.values(), STATE, SAMPLES, REASONS)


def readings(view: RunView) -> Iterator[tuple[Signal, float, str]]:
    """Yield signal, value and tag value of what is known now."""
    for table, found in ((GENERATION, view.generation), (TRAINING, view.training)):
        for field, signal in table.items():
            if isinstance(value := found.get(field), int | float):
                yield signal, float(value), ""
    state = _state(view.generation)
    for name in STATES:
        yield STATE, float(name == state), name
    for status in ("ok", "filtered", "failed"):
        if (count := view.generation.get(f"samples_{status}")) is not None:
            yield SAMPLES, float(count), status
    for reason, count in view.generation.get("reasons", {}).items():
        yield REASONS, float(count), reason


def _state(generation: dict[str, Any]) -> str:
    kind = str(generation.get("state", "running"))
    if kind == "starved":
        return name_of_starved(str(generation.get("reason", "")))
    return _STATE_OF_GENERATION.get(kind, kind)
