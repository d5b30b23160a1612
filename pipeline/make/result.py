"""What became of a unit: told by a generator, kept in the manifest's summary."""

from __future__ import annotations

import re
import time
import uuid
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from storage.manifests.unit_brief import UnitBrief

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from schemas.manifest import ManifestRow
    from schemas.unit import Unit

_EPOCH = re.compile(r"e([0-9]+)-")


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitResult:
    """One attempt at a unit.

    Attributes:
        unit_id: The unit.
        attempt: Unique name of the attempt.
        creation_version: Version of the weights that made the labels; -1 if there are none.
        creation_step: Training step behind that version.
        counts: Samples by status; ``ok``, ``filtered`` and ``failed`` are always there.
        reasons: Error class to number of filtered and failed samples.
        errors: Error class to number of failed samples alone.
        seconds: Time by stage, and ``all``.
        taken_over: Images that earlier attempts at the unit had made and stored.
        tar_bytes: Size of the shard.
        worker: Host and process that made it.
        is_committed: Whether this attempt is the visible one; False if another came first.
    """

    unit_id: str
    attempt: str
    creation_version: int
    creation_step: int = 0
    counts: dict[str, int]
    reasons: dict[str, int]
    errors: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    taken_over: int = 0
    tar_bytes: int = 0
    worker: str = ""
    is_committed: bool = False

    def summary(self) -> dict[str, Any]:
        """The part that the unit's manifest keeps."""
        values = asdict(self)
        del values["is_committed"], values["unit_id"]
        return {**values, "epoch": epoch_of(self.attempt)}


def brief_of_result(unit: Unit, result: UnitResult) -> UnitBrief:
    """What a reader of the unit's manifest would learn, from the word of who committed it.

    Args:
        unit: The unit.
        result: Its visible attempt.
    """
    kept = result.counts["ok"]
    return UnitBrief(
        unit_id=unit.unit_id,
        image_unit_id=unit.image_unit_id,
        kind=unit.kind,
        round=unit.round,
        revision=unit.revision,
        num_samples=sum(result.counts.values()),
        counts=result.counts,
        filtered=Counter(result.reasons) - Counter(result.errors),
        failed=result.errors,
        version=result.creation_version,
        kept_by_version={result.creation_version: kept} if kept else {},
        tar_bytes=result.tar_bytes,
        seconds=result.seconds,
    )


def new_attempt(number: int, *, epoch: int = 0) -> str:
    """Name an attempt; no two are alike, whoever makes them.

    Args:
        number: Attempts at the unit before this one.
        epoch: Of the driver that hands the unit out; 0 if it took none.
    """
    of_driver = f"e{epoch}-" if epoch else ""
    return f"{of_driver}a{number:02d}-{uuid.uuid4().hex[:8]}"


def epoch_of(attempt: str) -> int:
    """Epoch of the driver that an attempt was made for; 0 if it took none."""
    match = _EPOCH.match(attempt)
    return int(match.group(1)) if match else 0


def count_statuses(rows: Sequence[ManifestRow]) -> dict[str, int]:
    """Rows by status."""
    found = Counter(row.status for row in rows)
    return {status: found[status] for status in ("ok", "filtered", "failed")}


def count_reasons(rows: Sequence[ManifestRow], *, statuses: Sequence[str]) -> dict[str, int]:
    """Rows of some statuses by error class, the most frequent first."""
    found = Counter(row.error_class for row in rows if row.status in statuses)
    return dict(found.most_common())


class StageClock:
    """Measures the stages of a unit.

    Attributes:
        seconds: Stage to seconds.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = time.monotonic()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the ``with`` block."""
        started = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - started
            self.seconds[name] = self.seconds.get(name, 0.0) + spent

    def total(self) -> float:
        """Seconds since the clock was made."""
        return time.monotonic() - self._started
