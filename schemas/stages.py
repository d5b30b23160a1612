"""The stages of training, and the rows of results.json that show what they reached."""

from __future__ import annotations

from typing import Literal, get_args

Stage = Literal["warm_up", "creator", "real_only_control", "self_improve"]
"""``warm_up``: Eq. 6 on real pairs. ``self_improve``: Eq. 7 and Eq. 8 on real and synthetic pairs.
``real_only_control``: as ``self_improve``, from the same weights, but on real pairs alone.
``creator``: what makes images learns on the real pairs, where ``training.creator`` is given."""

ResultRow = Literal["warm_up", "real_only_control", "self_improved"]
"""Rows of ``results.json``: whose final creation weights a row shows."""

RESULT_ROWS: tuple[ResultRow, ...] = get_args(ResultRow)

STAGES_OF_RESULT: dict[ResultRow, tuple[Stage, ...]] = {
    "warm_up": ("warm_up",),
    "real_only_control": ("warm_up", "real_only_control"),
    "self_improved": ("warm_up", "self_improve"),
}
"""The stages that a row needs, in order; it shows the weights at the end of the last."""
