"""NYUD-MT as ASTMT and MTI-Net use it: NYUD_MT.tgz, 480 x 640, arrays as .npy.

``images/*.jpg``; ``segmentation/*.png`` 0..40, 0 ignored; ``depth/*.npy`` metres, 0 invalid;
``normals/*.npy`` vectors, zero invalid; ``edge/*.npy`` 0 or 1; ``gt_sets/{train,val}.txt``.
"""

from __future__ import annotations

from functools import partial

from sources.layouts.nyu_mt import OFFICIAL, TGZ, detect, open_nyud
from sources.layouts.protocol import Layout

LAYOUT = Layout(
    name="nyud_mt_tgz",
    title="NYUD_MT.tgz of ASTMT/MTI-Net (older): 480 x 640, normals, depth, 40 classes, edges",
    detect=partial(detect, suffixes=TGZ, folder_name="NYUD_MT"),
    open=partial(open_nyud, suffixes=TGZ, name="NYUD_MT"),
    official_counts=OFFICIAL,
    official_size=(480, 640),
)
