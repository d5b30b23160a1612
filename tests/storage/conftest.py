"""Stores to test against: a folder, memory, and S3 served by a process on this machine."""

from __future__ import annotations

import uuid
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from storage.filesystem import RunStore, open_store
from tests.chaos.s3_server import S3Server, s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """The server; also tells how it was asked, and makes faults."""
    if find_spec("moto") is None or find_spec("s3fs") is None:
        pytest.skip("needs s3fs and moto: pip install '.[s3]' 'moto[server]'")
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def s3_url(s3: S3Server) -> str:
    return s3.url


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
