"""An S3 server on the loopback, made of processes: moto's server, and a proxy before it.

The pair honours ``If-None-Match: *`` in one step, and does what else it is told to do wrong.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROXY = Path(__file__).with_name("faults") / "faulty_proxy.py"
BUCKET = "bucket"
SETTINGS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}
# Ends with whoever started it: a test that is killed leaves no server behind.
SERVE_MOTO = """
import os, sys, threading
def end_with_parent():
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=end_with_parent, daemon=True).start()
from moto.server import main
main(sys.argv[1:])
"""


class S3Server:
    """A running server, its environment, and what it may be told.

    Attributes:
        url: The bucket, as in ``run.url``.
        environment: What a process needs to reach it: address and credentials.
    """

    def __init__(self, port: int) -> None:
        self.url = f"s3://{BUCKET}"
        self.endpoint = f"http://127.0.0.1:{port}"
        self.environment = {**SETTINGS, "AWS_ENDPOINT_URL": self.endpoint}

    def inject(self, **settings: Any) -> None:
        """Make faults (``tests.kit.faults.faulty_proxy.Faults``) from now on; prints them."""
        print(f"faults: {settings}")  # noqa: T201 - shown with a failed test
        self._ask("PUT", "/_proxy/faults", json.dumps(settings).encode())

    def heal(self) -> None:
        """Make no more faults."""
        self._ask("PUT", "/_proxy/faults", b"{}")

    def forget(self) -> None:
        """Start a new log."""
        self._ask("DELETE", "/_proxy/log")

    def log(self) -> list[dict[str, Any]]:
        """Requests since the start, or since they were forgotten, in the order of arrival."""
        found: list[dict[str, Any]] = json.loads(self._ask("GET", "/_proxy/log"))
        return found

    def injected(self) -> Counter[str]:
        """Faults that were made, by kind."""
        return Counter(entry["fault"] for entry in self.log() if entry["fault"])

    def make_bucket(self) -> None:
        self._ask("PUT", f"/{BUCKET}")

    def _ask(self, method: str, path: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.endpoint + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Start a server with an empty bucket; it ends with the ``with`` block."""
    behind, before = free_port(), free_port()
    moto = [sys.executable, "-c", SERVE_MOTO, "-H", "127.0.0.1", "-p", str(behind)]
    proxy = [sys.executable, str(PROXY), "--upstream", f"http://127.0.0.1:{behind}"]
    with _process(moto), _process([*proxy, "--port", str(before)]):
        wait_for_port(behind)
        wait_for_port(before)
        server = S3Server(before)
        server.make_bucket()
        yield server


@contextmanager
def _process(command: Sequence[str]) -> Iterator[None]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **SETTINGS},
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, *, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"no server on port {port} after {timeout_s} s")
