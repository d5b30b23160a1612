"""Everything that is checked before a run begins or goes on; a dry run checks the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.loop.plan import plan_summary
from runs.checks.captions import expect_captions
from runs.checks.known import remarks_on_foreign_images
from runs.checks.machine import (
    cluster_address,
    expect_cluster_answers,
    expect_device,
    expect_gpus,
    expect_ray_can_start,
)
from runs.checks.models import expect_models
from runs.checks.place import expect_place
from runs.checks.plan import expect_enough_samples
from runs.checks.size import expect_size
from runs.checks.splits import (
    expect_gaps,
    expect_known_labels,
    expect_splits,
    expect_unlabelled,
    remarks_on_limits,
)
from runs.data_report import data_report_of, expect_useful
from runs.directory import expect_run
from schemas.errors import ConfigError
from storage.files.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.config import RunConfig
    from schemas.unit import Unit
    from sources.protocol import LabelledSource, Split
    from sources.report.data_report import DataReport
    from storage.files.stores import RunStore
    from storage.records.run_lock import Role


@dataclass(frozen=True, kw_only=True, slots=True)
class Startable:
    """What was found where nothing forbids to begin.

    Attributes:
        report: On the data.
        remarks: What a run bears, and who starts it should know.
    """

    report: DataReport
    remarks: tuple[str, ...]

    def lines(self, *, with_notes: bool = True) -> list[str]:
        """For a terminal.

        Args:
            with_notes: Also what the source says of itself.
        """
        report = self.report if with_notes else replace(self.report, notes=())
        return [*report.lines(), *(f"warning: {text}" for text in self.remarks)]


def expect_startable(
    config: RunConfig,
    store: RunStore,
    source: LabelledSource,
    *,
    roles: Sequence[Role],
    plan: Sequence[Unit] = (),
    on_ray: bool = True,
    is_dry: bool = False,
    report: DataReport | None = None,
) -> Startable:
    """Check all that a run would otherwise die of later; nothing is left in its directory.

    Args:
        store: The run directory.
        source: The run's.
        roles: What the job does; one that does both also scores.
        plan: What it generates.
        on_ray: Whether it uses Ray.
        is_dry: A cluster that does not answer is a remark.
        report: What was found before in the same samples, for the same tasks and models.

    Raises:
        ConfigError: If a value does not fit the machine, the models or the directory.
        SourceError: If the data cannot be learnt from or scored.
    """
    summary = plan_summary(config, plan, image_size=source.image_size)
    remarks = expect_place(store, wanted_bytes=summary.bytes_estimate)
    remarks += _expect_machine(config, roles, on_ray=on_ray, is_dry=is_dry)
    networks = expect_models(config, with_captioner="generate" in roles)
    expect_size(config, networks, source.image_size)
    is_scored = len(set(roles)) > 1
    splits: list[Split] = ["train", "test"] if is_scored else ["train"]
    expect_splits(config, source, splits)
    remarks += remarks_on_limits(config, source)
    if "generate" in roles:
        expect_unlabelled(config, source)
        expect_gaps(config, source)
        expect_known_labels(config, source)
        remarks += expect_captions(config, store, source)
    if is_scored:
        expect_enough_samples(config, plan)
    _expect_donor(config)
    if networks is not None:
        from perception.trial import expect_creator_fits, expect_method_fits

        shapes = {part: each.config for part, each in networks.items()}
        expect_method_fits(config, shapes, source.image_size)
        expect_creator_fits(config, shapes)
    return Startable(report=report or _look_at(config, source), remarks=tuple(remarks))


def _look_at(config: RunConfig, source: LabelledSource) -> DataReport:
    report = data_report_of(config, source)
    expect_useful(report)
    foreign = remarks_on_foreign_images(config, source)
    return replace(report, warnings=(*report.warnings, *foreign))


def _expect_machine(
    config: RunConfig, roles: Sequence[Role], *, on_ray: bool, is_dry: bool
) -> list[str]:
    address = cluster_address(config) if on_ray else None
    if address is None:
        expect_device(config)
    if not on_ray:
        return []
    expect_ray_can_start()
    if address is None:
        import torch

        expect_gpus(config, roles, torch.cuda.device_count(), "this machine")
        return []
    try:
        expect_cluster_answers(address)
    except ConfigError as error:
        if not is_dry:
            raise
        return [str(error)]
    return []


def _expect_donor(config: RunConfig) -> None:
    """Check that the run is there whose synthetic samples this one learns from.

    Raises:
        ConfigError: If it is not.
    """
    if config.training.synthetic_run is not None:
        try:
            expect_run(open_store(config.training.synthetic_run))
        except ConfigError as error:
            raise ConfigError(f"training.synthetic_run: {error}") from error
