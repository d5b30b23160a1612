"""Run a plan in this process: the measure of what the distributed runner must do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.loop.control import FATAL_ERRORS, GenerationControl
from pipeline.make.isolate import SAMPLE_ERRORS, failure_of
from pipeline.make.unit_weights import watch_for
from schemas.errors import DamagedShardError
from storage.records.weights import watch_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.loop.capacity import Decision
    from pipeline.make.generator import Generator
    from schemas.unit import Unit
    from schemas.weights import Series
    from storage.files.stores import RunStore
    from storage.records.weights import WeightsWatch

ATTEMPT_ERRORS = (*SAMPLE_ERRORS, DamagedShardError, OSError)


def run_units(
    control: GenerationControl,
    generator: Generator,
    store: RunStore,
    *,
    pinned_version: int | None = None,
    on_unit: Callable[[Unit], None] = lambda _: None,
) -> Decision:
    """Work on units, one after the other, as long as there is one that may be worked on.

    Before each unit the weights that it is to be made with, the newest, are taken from storage.

    Args:
        control: Decides; made for the same run.
        on_unit: Called with each unit after it was committed.

    Returns:
        Why there is nothing more to do now: ``finished``, ``failed`` or ``starved``.
    """
    watches = watch_all(store, pinned=pinned_version)
    while True:
        for unit in control.refresh():
            on_unit(unit)
        decision = control.decide()
        if decision.unit is None:
            return decision
        attempt = control.lease(decision.unit)
        try:
            for series in generator.series_of(decision.unit):
                watch = watch_for(decision.unit, series, store, watches)
                take_newest(generator, watch, series)
            generator.generate(decision.unit, attempt)
        except FATAL_ERRORS as error:
            control.take_back(decision.unit)
            control.fail(str(error))
        except ATTEMPT_ERRORS as error:
            control.settle(decision.unit, attempt, failure_of(error))
        else:
            control.settle(decision.unit, attempt)


def take_newest(
    generator: Generator, watch: WeightsWatch, series: Series = "creation"
) -> int | None:
    """Give a generator the newest weights from storage, unless it holds them.

    Args:
        watch: Of the same series.

    Returns:
        The version it holds now.
    """
    newer = watch.newer_than(generator.versions[series])
    if newer is not None:
        generator.take_weights(*newer, series)
    return generator.versions[series]
