"""Which files of a folder are looked at."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sources.folder_listing import Unused, list_files, list_images


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def images_in(root: Path) -> list[str]:
    return [file.relative_to(root).as_posix() for file in list_images(root).files]


def test_what_systems_leave_behind_is_not_listed(tmp_path):
    touch(tmp_path, "a.jpg", "._a.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", ".git/b.png")
    touch(tmp_path, "__MACOSX/rgb/._a.jpg", "@eaDir/a.jpg")
    listing = list_images(tmp_path)
    assert [file.name for file in listing.files] == ["a.jpg"]
    assert listing.unused.describe() == "7 files not used: 7 hidden"


def test_suffixes_are_compared_without_case(tmp_path):
    touch(tmp_path, "a.JPG", "b.Jpeg", "c.png")
    assert images_in(tmp_path) == ["a.JPG", "b.Jpeg", "c.png"]
    assert list_images(tmp_path).unused.describe() == ""


def test_links_in_a_circle_come_to_an_end(tmp_path):
    root = tmp_path / "photographs"
    touch(root, "sub/a.jpg")
    (root / "sub/again").symlink_to("..")
    (root / "above").symlink_to(tmp_path)
    (root / "itself").symlink_to("itself")
    listing = list_images(root)
    assert images_in(root) == ["sub/a.jpg"]
    assert "1 link that leads nowhere" in listing.unused.describe()


def test_a_folder_is_known_by_its_own_name_rather_than_by_a_link(tmp_path):
    touch(tmp_path, "b/x.jpg")
    (tmp_path / "a").symlink_to("b")
    assert images_in(tmp_path) == ["b/x.jpg"]


def test_links_to_files_are_files_and_pipes_are_not(tmp_path):
    touch(tmp_path, "store/a")
    (tmp_path / "a.jpg").symlink_to("store/a")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    listing = list_images(tmp_path)
    assert [file.name for file in listing.files] == ["a.jpg"]
    assert listing.unused.counts == {"names of no plain files": 2, "without a suffix": 1}


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    touch(tmp_path, "a.jpg", "closed/b.jpg")
    (tmp_path / "closed").chmod(0)
    listing = list_images(tmp_path)
    assert "1 folder that may not be read" in listing.unused.describe()


def test_only_so_many_levels_are_searched(tmp_path):
    touch(tmp_path, "a.jpg", "one/b.jpg", "one/two/c.jpg")
    found = list_files(tmp_path, Unused(), levels=2)
    assert [file.name for file in found] == ["a.jpg", "b.jpg"]


def test_signs_that_steer_a_terminal_are_not_printed(tmp_path):
    (tmp_path / "\x1b[2J.jpg").symlink_to("nowhere")
    touch(tmp_path, "a.\x1b[2J")
    assert "\x1b" not in list_images(tmp_path).unused.describe()
