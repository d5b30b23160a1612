"""MATLAB files are checked before scipy reads them: a damaged one cannot end the process."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.io

from sources.readers.mat_tags import check_tags
from sources.readers.matlab import load_mat

CONTENT = {
    "numbers": np.arange(12, dtype=np.uint16).reshape(3, 4),
    "more": np.linspace(0, 1, 5),
    "empty": np.zeros((0, 3)),
    "text": "a text",
    "anno": {
        "imname": "2008_000003",
        "objects": np.array(
            [(15, np.eye(3, dtype=np.uint8)), (2, np.ones((2, 2), np.uint8))],
            dtype=[("class_ind", object), ("mask", object)],
        ),
    },
    "cells": np.array(["one", np.arange(3)], dtype=object),
}


@pytest.mark.parametrize("compressed", [False, True])
def test_whole_files_with_structs_and_cells_pass_and_are_read(tmp_path, compressed):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, CONTENT, do_compression=compressed)
    check_tags(path.read_bytes())
    found = load_mat(path.read_bytes(), ("numbers", "anno", "absent"))
    assert set(found) == {"numbers", "anno"}
    np.testing.assert_array_equal(found["numbers"], CONTENT["numbers"])
    objects = found["anno"]["objects"][0, 0]
    assert objects.shape == (1, 2)
    np.testing.assert_array_equal(objects[0, 0]["mask"], np.eye(3))


@pytest.mark.parametrize("compressed", [False, True])
def test_every_torn_file_is_refused_or_ends_between_two_variables(tmp_path, compressed):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, CONTENT, do_compression=compressed)
    whole = path.read_bytes()
    passed = 0
    for length in range(len(whole)):
        try:
            check_tags(whole[:length])
        except ValueError:
            continue
        passed += 1
    assert passed == len(CONTENT)


def test_any_damaged_byte_is_refused_or_harmless(tmp_path):
    """The process going on is the point: scipy alone crashes on some of these."""
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"numbers": np.arange(6), "anno": {"a": 1, "b": "x"}})
    whole = path.read_bytes()
    outcomes = {"refused": 0, "read": 0}
    for position in range(128, len(whole), 3):
        for value in (14, 148):
            damaged = bytearray(whole)
            damaged[position] = value
            try:
                load_mat(bytes(damaged), ("numbers", "anno"))
                outcomes["read"] += 1
            except ValueError:
                outcomes["refused"] += 1
    assert outcomes["refused"] > 30
    assert outcomes["read"] > 30


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"", "up to v7"), (b"MATLAB 7.3 MAT-file", "v7.3"), (bytes(200), "up to v7")],
)
def test_other_files_are_refused(content, complaint):
    with pytest.raises(ValueError, match=complaint):
        load_mat(content, ("a",))
