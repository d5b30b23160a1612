"""The project's exceptions, sorted by what the caller should do."""

from __future__ import annotations


def first_line(error: Exception) -> str:
    """The first line of what an error of another library says, at most 300 signs; or its type."""
    return (str(error).strip() or type(error).__name__).split("\n", 1)[0][:300]


class UserError(Exception):
    """Something the user has to change; jobs print the message and exit with status 2."""


class ConfigError(UserError):
    """A configuration value is wrong: the message names field, value and remedy."""


class SourceError(UserError):
    """A data source is missing or malformed: the message names the path and the remedy."""


class SampleError(Exception):
    """One sample cannot be used; it becomes a manifest row with a reason and the run goes on.

    Attributes:
        reason: A short, stable word for counting (``decode_failed``, ``label_size_differs``, …).
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class AlreadyCommittedError(Exception):
    """Create-if-absent found the object present: somebody else committed first."""


class StoreUnreachableError(OSError):
    """A remote store failed whenever it was asked; it may answer again at any time."""


class DamagedShardError(Exception):
    """Stored bytes do not match their digest or format; the shard must not be read."""


class WeightsMismatchError(Exception):
    """Published weights do not fit the module that should take them."""


class NotFiniteError(Exception):
    """A loss or weight is not finite; training stops before the optimiser step."""


class RunFailedError(Exception):
    """A run cannot go on: too many failures, or a part died for good."""


class FencedError(RunFailedError):
    """A younger driver took the run over: this one must change nothing more and end."""
