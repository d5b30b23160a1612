"""A folder that no file system can have is refused in words."""

from __future__ import annotations

import pytest

from schemas.errors import ConfigError
from storage.files.stores import open_store


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a\0b", r"run.url.*a name cannot hold the sign U\+0000"),
        ("n" * 300, "run.url.*the name is longer than the file system takes; shorten it"),
        (f"new/{'n' * 300}/x", "run.url.*the name is longer"),
        ("circle/run", "run.url.*links lead in a circle; correct the link"),
    ],
    ids=["nul", "long", "long below", "circle"],
)
def test_a_place_that_cannot_be_is_refused_with_a_remedy(tmp_path, name, words):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(ConfigError, match=words):
        open_store(f"{tmp_path}/{name}")


def test_a_place_that_is_not_there_yet_is_opened(tmp_path):
    assert open_store(f"{tmp_path}/new/run").list_dir("") == []
