"""Stores to test against: a folder, memory, and S3 served by a process on this machine."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from storage.files.stores import RunStore, open_store

if TYPE_CHECKING:
    from pathlib import Path


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
