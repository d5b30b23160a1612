"""What every test needs: one thread per process, no network, no usage statistics.

Tests share few cores with the Ray processes that they start: more threads than cores make torch
spin instead of compute.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.kit.s3_server import S3Server, s3_server

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="session")
def s3_process() -> Iterator[S3Server]:
    if find_spec("moto") is None or find_spec("s3fs") is None:
        pytest.skip("needs s3fs and moto: pip install '.[s3]' 'moto[server]'")
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def s3(s3_process: S3Server) -> Iterator[S3Server]:
    """The server, which makes faults only if it is told to, and tells how it was asked."""
    s3_process.forget()
    yield s3_process
    s3_process.heal()


@pytest.fixture(scope="session")
def s3_url(s3_process: S3Server) -> str:
    """A bucket on an S3 server on this machine."""
    return s3_process.url
