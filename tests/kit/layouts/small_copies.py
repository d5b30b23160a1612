"""A small copy of every layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.kit.layouts import ade20k_files, cityscapes_files, nyu_files, pascal_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COPIES: dict[str, Callable[[Path], Any]] = {
    "ade20k": ade20k_files.write_ade20k,
    "cityscapes": cityscapes_files.write_cityscapes,
    "cityscapes_mtpsl": cityscapes_files.write_mtpsl,
    "nyu_bae": lambda root: nyu_files.write_bae(root, {"train": 3, "test": 2}),
    "nyu_bts": nyu_files.write_bts,
    "nyu_depth_v2": nyu_files.write_mat,
    "nyu_mtpsl": nyu_files.write_mtpsl,
    "nyud_mt_atrc": nyu_files.write_atrc,
    "nyud_mt_tgz": nyu_files.write_tgz,
    "pascal_context": pascal_files.write_pascal,
}
"""By name of the layout: writes a few images of train and test; gives what was put in, by key."""
