"""Make units again whose samples failed, or whose manifest cannot be read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.loop.control import GenerationControl
from pipeline.loop.local_runner import run_units
from pipeline.loop.retry import RetryPlan, plan_retry
from pipeline.make.build import open_captioner, open_generator
from pipeline.make.caption import caption_missing, missing_captions
from runs.checks.models import expect_models
from runs.generation import check_weights, generate_on_ray, plan_of
from schemas.errors import ConfigError, DamagedShardError, RunFailedError
from schemas.text import number_of
from sources.open import open_run_source
from storage.manifests.table import ManifestReader, iterate_units
from storage.records.run_lock import RunLock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from schemas.config import RunConfig
    from schemas.unit import Unit
    from storage.files.stores import RunStore
    from storage.manifests.unit_outcome import UnitCommit


def plan_of_retry(
    store: RunStore,
    config: RunConfig,
    *,
    reasons: Sequence[str] = (),
    unit_ids: Sequence[str] = (),
) -> RetryPlan:
    """Plan a retry of what a run has committed.

    Raises:
        ConfigError: If a unit is named that is not committed.
    """
    reader = ManifestReader(store)
    commits = reader.refresh()
    torn = _torn_units(store, config) if reader.torn else []
    found = {commit.unit.unit_id for commit in commits} | {unit.unit_id for unit in torn}
    missing = set(unit_ids) - found
    if missing:
        raise ConfigError(
            f"--units {' '.join(sorted(missing))}: not committed in {store.url}; the command that "
            "the run was started with makes what is not committed"
        )
    return plan_retry(commits, reasons=reasons, unit_ids=unit_ids, torn=torn)


def _torn_units(store: RunStore, config: RunConfig) -> list[Unit]:
    """Units of the run's plan whose newest manifest cannot be read, each as that revision."""
    torn = {
        place.unit_id: place.revision
        for place, found in iterate_units(store)
        if isinstance(found, DamagedShardError)
    }
    return [
        replace(unit, revision=torn[unit.unit_id])
        for unit in plan_of(config)
        if unit.unit_id in torn
    ]


def describe_retry(plan: RetryPlan) -> list[str]:
    """Say what a retry would do."""
    samples = sum(unit.num_samples for unit in plan.units)
    lines = [f"{number_of(len(plan.units), 'unit')} to retry, {samples} samples"]
    lines += [f"  {count} fell out for: {reason}" for reason, count in plan.reasons.most_common()]
    lines += [
        f"  round {unit.round} {unit.kind} {unit.unit_id} revision {unit.revision}: "
        f"{unit.num_samples} samples"
        for unit in plan.units
    ]
    return lines + [f"  left out: {unit}: {why}" for unit, why in plan.left_out.items()]


def retry(
    store: RunStore,
    config: RunConfig,
    plan: RetryPlan,
    *,
    reasons: Sequence[str] = (),
    version: int | None = None,
    is_local: bool = False,
    console: Console,
) -> None:
    """Make the units of a plan again.

    Args:
        plan: Of :func:`plan_of_retry`.
        reasons: Those that the plan was made for.
        version: Label with this version of the creation weights; the newest if None.

    Raises:
        ConfigError: If models or weights are missing.
        RunFailedError: If samples have failed again.
    """
    missing = missing_captions(store, plan.units)
    expect_models(config, with_captioner=bool(missing))
    check_weights(config, store, version)
    if missing:
        caption_missing(store, open_run_source(config), open_captioner(config), missing)
    good = _count_good(_commits_of(store, plan))
    if is_local:
        _retry_here(config, store, plan, version=version)
    else:
        # No lock: a revision of what is committed is in no driver's way.
        lock = RunLock(store=store)
        generate_on_ray(config, lock, plan.units, version=version, console=console)
    commits = _commits_of(store, plan)
    console.print(f"good samples in these units: {good} before, {_count_good(commits)} now")
    _expect_mended(commits, reasons)


def _retry_here(
    config: RunConfig, store: RunStore, plan: RetryPlan, *, version: int | None = None
) -> None:
    """Make the units again in this process.

    Raises:
        RunFailedError: If too much failed.
    """
    control = GenerationControl(
        config, store, plan.units, pinned_version=version, weights_final=True
    )
    ended = run_units(control, open_generator(config, store), store, pinned_version=version)
    if ended.kind == "failed":
        raise RunFailedError(ended.reason)


def _commits_of(store: RunStore, plan: RetryPlan) -> list[UnitCommit]:
    """The units of a plan, as they stand."""
    ids = {unit.unit_id for unit in plan.units}
    return [commit for commit in ManifestReader(store).refresh() if commit.unit.unit_id in ids]


def _count_good(commits: Sequence[UnitCommit]) -> int:
    """Good samples in units."""
    return sum(row.status == "ok" for commit in commits for row in commit.rows)


def _expect_mended(commits: Sequence[UnitCommit], reasons: Sequence[str]) -> None:
    """Check that no sample that was to be made again has failed once more.

    Raises:
        RunFailedError: If some have; the most frequent reasons are named.
    """
    left = plan_retry(commits, reasons=reasons).reasons
    if left:
        named = ", ".join(f"{reason} ({count})" for reason, count in left.most_common(3))
        raise RunFailedError(
            f"{number_of(left.total(), 'sample')} failed again: {named}; mend what the "
            "reasons name, then retry once more"
        )
