"""Names of the classes of Cityscapes, and what its own ids stand for."""

from __future__ import annotations

CITYSCAPES_19 = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)
"""In the order of the official train ids."""

CITYSCAPES_7 = ("flat", "construction", "object", "nature", "sky", "human", "vehicle")
"""The official categories without void, in their order."""

SCORED_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The label id of each of the 19 classes; all others up to 33 are not scored."""

NUM_LABEL_IDS = 34
