"""Repeat requests to a remote store while it fails for a moment; all its errors become OSErrors."""

from __future__ import annotations

import errno
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_exponential,
    wait_random_exponential,
)

from schemas.errors import StoreUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_FINAL = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
_REFUSED = frozenset({401, 403})
_PASSING = frozenset({408, 409, 425, 429})
# Clients of object stores raise some errors of their own libraries as they are. They are known by
# the module of their type, for none of the clients need be installed.
_CLIENTS = frozenset(
    {"aiobotocore", "aiohttp", "boto3", "botocore", "gcsfs", "google", "requests", "urllib3"}
)
_LONGEST_REASON = 300


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a store is asked again; waits double, and each is drawn from its upper half.

    Attributes:
        tries: How often it is asked, at most.
        first_wait_s: Longest wait after the first try, in seconds.
        longest_wait_s: Longest wait between two tries, in seconds.
        limit_s: No try begins later than this after the first, in seconds.
    """

    tries: int = 8
    first_wait_s: float = 0.2
    longest_wait_s: float = 10.0
    limit_s: float = 60.0


PATIENCE = Patience()
"""About 17 s of waiting in all: longer than a store takes to divide a busy prefix."""


def patiently(call: Callable[[], Answer], what: str) -> Answer:
    """Call something that asks a remote store, again and again while it fails in passing.

    Args:
        what: What is wanted, with the object's URL; the beginning of the error's message.

    Raises:
        FileNotFoundError: At once, as are the other errors that say what is there.
        PermissionError: At once, if the store refuses access.
        StoreUnreachableError: If the tries are used up.
        OSError: At once, if another try would end the same.
    """
    # The fixed and the drawn half of each wait.
    half, longest = PATIENCE.first_wait_s / 2, PATIENCE.longest_wait_s / 2
    asking = Retrying(
        retry=retry_if_exception(_is_asked_again),
        stop=stop_after_attempt(PATIENCE.tries) | stop_before_delay(PATIENCE.limit_s),
        wait=wait_exponential(half, max=longest) + wait_random_exponential(half, max=longest),
        before_sleep=lambda state: _log_wait(state, what),
        reraise=True,
    )
    try:
        return asking(call)
    except _FINAL:
        raise
    except Exception as error:
        if not _is_of_store(error):
            raise
        explained = _explained(error, what, asking.statistics["attempt_number"])
        raise explained from error


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed later: the server is busy or was not reached."""
    status = http_status(error)
    if status is not None:
        return status >= 500 or status in _PASSING
    return not isinstance(error, PermissionError)


def http_status(error: BaseException) -> int | None:
    """Status that the server answered with; None if there was no answer.

    s3fs leaves botocore's error, which knows it, in the cause; gcsfs keeps it as ``code``.
    """
    for each in (error.__cause__, error):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            status: Any = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status if isinstance(status, int) else None
        code = getattr(each, "code", None)
        if isinstance(code, int) and _library(each) == "gcsfs":
            return code
    return None


def error_code(error: BaseException) -> str:
    """S3's own word for an error; "" if there is none."""
    response = getattr(error.__cause__, "response", None)
    return str(response["Error"].get("Code", "")) if isinstance(response, dict) else ""


def _is_asked_again(error: BaseException) -> bool:
    return not isinstance(error, _FINAL) and _is_of_store(error) and is_passing(error)


def _log_wait(state: RetryCallState, what: str) -> None:
    error = state.outcome and state.outcome.exception()
    logger.info(
        "store_is_asked_again what=%s wait_s=%.1f error=%r", what, state.upcoming_sleep, error
    )


def _is_of_store(error: BaseException) -> bool:
    return isinstance(error, OSError) or _library(error) in _CLIENTS


def _library(error: BaseException | None) -> str:
    return type(error).__module__.split(".")[0]


def _explained(error: Exception, what: str, tried: int) -> OSError:
    status = http_status(error)
    is_refused = status in _REFUSED or isinstance(error, PermissionError)
    remedy = (
        "check the credentials in the environment and what they may do"
        if is_refused
        else "see whether the store answers and the network is up; the same command then resumes"
    )
    reason = f"{type(error).__name__}: {error}"[:_LONGEST_REASON]
    number = getattr(error, "errno", None)
    kind: type[OSError] = StoreUnreachableError if is_passing(error) else OSError
    if is_refused:
        kind = PermissionError
    return kind(
        number if isinstance(number, int) else errno.EIO,
        f"{what}: wanted an answer of the store, found {reason} after {tried} "
        f"{'try' if tried == 1 else 'tries'}; {remedy}",
    )
