"""What a cloud tells a machine about its own end: AWS instance metadata (IMDSv2) and GCP's.

Each cloud answers plain HTTP on a link-local address. Nothing here knows of Ray.
"""

from __future__ import annotations

import http.client
import json
import logging
import math
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)

Cloud = Literal["aws", "gcp"]

AWS_URL = "http://169.254.169.254"
GCP_URL = "http://metadata.google.internal"
TIMEOUT_S = 2.0
_AWS_TOKEN_TTL_S = 21600
_AWS_ACTIONS = frozenset({"terminate", "stop", "hibernate"})
_GCP_PREEMPTED_S = 30.0
_GCP_MAINTENANCE_S = 60.0
_LONGEST_ANSWER = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """The machine may go away.

    Attributes:
        kind: ``ending``: it will; ``at_risk``: it may, later (AWS rebalance recommendation).
        message: What the cloud said.
        remaining_s: Seconds that are left; infinity where the cloud names no time.
    """

    kind: Literal["ending", "at_risk"]
    message: str
    remaining_s: float


class MetadataError(Exception):
    """The metadata service did not answer, or not in its own form; it may next time."""


def parse_instance_action(text: str, *, now_s: float) -> Notice | None:
    """Read AWS ``spot/instance-action``: ``{"action": "terminate", "time": "…Z"}``.

    Args:
        now_s: Seconds since 1970, UTC.

    Returns:
        The notice; None if the answer is not of that form.
    """
    try:
        found = json.loads(text)
        action, at = found["action"], datetime.fromisoformat(found["time"]).timestamp()
    except (ValueError, TypeError, KeyError):
        return None
    if action not in _AWS_ACTIONS:
        return None
    return Notice(kind="ending", message=f"aws spot {action}", remaining_s=max(at - now_s, 0.0))


def parse_maintenance_event(text: str) -> Notice | None:
    """Read GCP ``instance/maintenance-event``; a machine that moves on its own is no concern."""
    if text.strip() != "TERMINATE_ON_HOST_MAINTENANCE":
        return None
    return Notice(kind="ending", message="gcp host maintenance", remaining_s=_GCP_MAINTENANCE_S)


class AwsMetadata:
    """Asks AWS. Every question carries a session token, which is renewed when it is refused."""

    cloud: Cloud = "aws"

    def __init__(self, url: str = AWS_URL, *, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._token = ""

    def can_end(self) -> bool:
        """Whether this machine is a spot instance.

        Raises:
            MetadataError: If nothing answers.
        """
        return self._get("instance-life-cycle") == "spot"

    def notice(self) -> Notice | None:
        """What is known now; None if the machine stays.

        Raises:
            MetadataError: If nothing answers.
        """
        action = self._get("spot/instance-action")
        if action is not None and (ending := parse_instance_action(action, now_s=time.time())):
            return ending
        if self._get("events/recommendations/rebalance") is None:
            return None
        return Notice(kind="at_risk", message="aws rebalance", remaining_s=math.inf)

    def _get(self, item: str) -> str | None:
        """An item of the metadata; None if there is no such item now.

        Raises:
            MetadataError: If nothing answers, or a fresh token is refused.
        """
        for _ in range(2):
            self._token = self._token or self._new_token()
            status, body = _ask(
                f"{self._url}/latest/meta-data/{item}",
                headers={"X-aws-ec2-metadata-token": self._token},
                timeout_s=self._timeout_s,
            )
            if status != http.client.UNAUTHORIZED:
                return _present(status, body, item)
            self._token = ""
        raise MetadataError(f"{item}: a fresh token was refused")

    def _new_token(self) -> str:
        status, body = _ask(
            f"{self._url}/latest/api/token",
            method="PUT",
            headers={"X-aws-ec2-metadata-token-ttl-seconds": str(_AWS_TOKEN_TTL_S)},
            timeout_s=self._timeout_s,
        )
        if status != http.client.OK or not body:
            raise MetadataError(f"token: wanted 200, found {status}")
        return body


class GcpMetadata:
    """Asks GCP."""

    cloud: Cloud = "gcp"

    def __init__(self, url: str = GCP_URL, *, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url
        self._timeout_s = timeout_s

    def can_end(self) -> bool:
        """Whether this machine is a spot one, or would be ended by maintenance of its host.

        Raises:
            MetadataError: If nothing answers.
        """
        if self._get("scheduling/preemptible") == "TRUE":
            return True
        return self._get("scheduling/on-host-maintenance") == "TERMINATE"

    def notice(self) -> Notice | None:
        """What is known now; None if the machine stays.

        Raises:
            MetadataError: If nothing answers.
        """
        if self._get("preempted") == "TRUE":
            return Notice(kind="ending", message="gcp spot preempted", remaining_s=_GCP_PREEMPTED_S)
        return parse_maintenance_event(self._get("maintenance-event") or "")

    def _get(self, item: str) -> str | None:
        status, body = _ask(
            f"{self._url}/computeMetadata/v1/instance/{item}",
            headers={"Metadata-Flavor": "Google"},
            timeout_s=self._timeout_s,
        )
        return _present(status, body.strip(), item)


Metadata = AwsMetadata | GcpMetadata


def find_metadata(*candidates: Metadata) -> Metadata | None:
    """The cloud that this machine is in, if the cloud can take the machine back.

    Args:
        candidates: Who to ask, in order; AWS and GCP if none is given.

    Returns:
        None on a machine that no cloud ends: on demand, or at home.
    """
    for metadata in candidates or (AwsMetadata(), GcpMetadata()):
        try:
            can_end = metadata.can_end()
        except MetadataError as error:
            logger.info("no_metadata cloud=%s: %s", metadata.cloud, error)
            continue
        return metadata if can_end else None
    return None


def wait_for_end(
    metadata: Metadata,
    *,
    poll_s: float,
    on_risk: Callable[[Notice], None] = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Notice:
    """Ask again and again until the machine's end is announced; errors are waited out.

    Args:
        on_risk: Told once if the cloud sees a risk.

    Returns:
        The notice.
    """
    is_at_risk = False
    while True:
        try:
            notice = metadata.notice()
        except MetadataError as error:
            logger.warning("metadata_not_reached cloud=%s: %s", metadata.cloud, error)
            notice = None
        if notice is not None and notice.kind == "ending":
            return notice
        if notice is not None and not is_at_risk:
            is_at_risk = True
            on_risk(notice)
        sleep(poll_s)


def _present(status: int, body: str, item: str) -> str | None:
    if status == http.client.OK:
        return body
    if status == http.client.NOT_FOUND:
        return None
    raise MetadataError(f"{item}: wanted 200 or 404, found {status}")


def _ask(
    url: str, *, headers: Mapping[str, str], timeout_s: float, method: str = "GET"
) -> tuple[int, str]:
    """Status and body of an answer; a proxy of the environment is never asked.

    Raises:
        MetadataError: If there is no answer in time.
    """
    request = urllib.request.Request(url, headers=dict(headers), method=method)  # noqa: S310
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            return answer.status, answer.read(_LONGEST_ANSWER).decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, ""
    except (OSError, http.client.HTTPException) as error:
        raise MetadataError(str(error)) from error
