"""NYUD-MT as ATRC, InvPT and TaskPrompter use it: NYUDv2.tar.gz, PNG files of 425 x 560.

``images/*.png``; ``segmentation/*.png`` 0..40, 0 ignored; ``depth/*.npy`` metres, 0 invalid;
``normals/*.png`` 2v / 255 - 1; ``edge/*.png`` 0 or 255; ``gt_sets/{train,val}.txt``.
"""

from __future__ import annotations

from functools import partial

from sources.layouts.nyu_mt import ATRC, OFFICIAL, detect, open_nyud
from sources.layouts.protocol import Layout

LAYOUT = Layout(
    name="nyud_mt_atrc",
    title="NYUDv2.tar.gz of ATRC/InvPT: 425 x 560 PNG, normals, depth, 40 classes, edges",
    detect=partial(detect, suffixes=ATRC, folder_name="NYUDv2"),
    open=partial(open_nyud, suffixes=ATRC, name="NYUDv2"),
    official_counts=OFFICIAL,
    official_size=(425, 560),
)
