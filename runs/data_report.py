"""The report on a run's data: seen before it starts, kept in its directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import SourceError
from schemas.paths import resolve_path
from schemas.run_layout import DATA_REPORT_FILE
from sources.folder_description import load_description
from sources.pinned import PinnedSource
from sources.report.data_report import DataReport, report_of
from sources.rooms_classes import VOID_ID

if TYPE_CHECKING:
    from schemas.config import RunConfig
    from sources.protocol import LabelledSource
    from storage.files.stores import RunStore


def data_report_of(config: RunConfig, source: LabelledSource) -> DataReport:
    """Look at the samples of a run's source, as they are now.

    Raises:
        SourceError: If a shard is missing or damaged.
    """
    now = source.whole if isinstance(source, PinnedSource) else source
    section = config.source
    labels = None
    if section.kind == "folder":
        labels = load_description(Path(resolve_path(section.description))).labels
    is_void = section.kind == "rooms" or (
        section.kind == "mix"
        and any(each.source.kind == "rooms" and not each.class_map for each in section.members)
    )
    void_ids = (VOID_ID,) if is_void else ()
    return report_of(now, config.method.tasks, labels=labels, void_ids=void_ids)


def expect_useful(report: DataReport) -> None:
    """Check that something can be learnt and scored.

    Raises:
        SourceError: If not; the message has all reasons and warnings.
    """
    if report.errors:
        lines = [*report.errors, *(f"(also: {text})" for text in report.warnings)]
        raise SourceError(f"data of {report.source}: " + "\n  ".join(lines))


def keep_data_report(store: RunStore, report: DataReport) -> None:
    """Write the report into a run's directory."""
    store.write_bytes(DATA_REPORT_FILE, report.to_json().encode())
