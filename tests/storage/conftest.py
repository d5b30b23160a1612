"""Stores to test against: a folder, memory, and S3 served by a process on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from storage.filesystem import RunStore, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

S3_SETTINGS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}
SERVE = "import sys; from moto.server import main; main(sys.argv[1:])"


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    if find_spec("moto") is None or find_spec("s3fs") is None:
        pytest.skip("needs s3fs and moto: pip install '.[s3]' 'moto[server]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in S3_SETTINGS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        server = subprocess.Popen(
            [sys.executable, "-c", SERVE, "-H", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=dict(os.environ),
        )
        try:
            wait_for_port(port)
            open_store("s3://bucket").fs.mkdir("bucket")
            yield "s3://bucket"
        finally:
            server.kill()
            server.wait()


def wait_for_port(port: int, *, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"no server on port {port} after {timeout_s} s")


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> RunStore:
    """A fresh, empty store of each kind."""
    name = uuid.uuid4().hex
    if request.param == "local":
        return open_store(str(tmp_path / name))
    if request.param == "memory":
        return open_store(f"memory://{name}")
    return open_store(f"{request.getfixturevalue('s3_url')}/{name}")


@pytest.fixture
def local_store(tmp_path: Path) -> RunStore:
    return open_store(str(tmp_path / "run"))
