"""Images of another kind than a backbone knows are told from those that it knows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from perception.diffusion.backbone import load_backbone
from perception.known_images import KNOWN_IMAGES_FILE, KnownImages, read_known_images
from schemas.config_source import RoomsSource as RoomsSection
from schemas.errors import ConfigError
from schemas.sample import Sample
from sources.rooms import RoomsSource
from tests.kit.tiny_models import tiny_diffusion_folder

ROOT = Path(__file__).parents[2]
STARTER = ROOT / "starter" / "diffusion"


def checks(size: int, *, seed: int) -> np.ndarray:
    """A board of random colours: nothing like a room."""
    colours = np.random.default_rng(seed).integers(0, 256, (size // 4, size // 4, 3))
    return colours.repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8)


@pytest.mark.slow
def test_the_starter_knows_rooms_and_no_boards_of_colours():
    known = read_known_images(STARTER)
    backbone = load_backbone(STARTER)
    source = RoomsSource(RoomsSection(root=str(ROOT / "data/rooms")), ("normals",))
    shard = source.shards("test")[0]
    rooms = [s.image for s in source.read(shard, shard.keys[:16]) if isinstance(s, Sample)]
    assert known.describe(known.count_foreign(backbone, rooms), len(rooms)) is None
    boards = [checks(64 + 32 * (i % 2), seed=i) for i in range(16)]
    remark = known.describe(known.count_foreign(backbone, boards), len(boards))
    assert remark.startswith("16 of 16 images looked at are unlike what the models know (rendered")


@pytest.mark.parametrize(
    ("number", "of", "is_told"),
    [(0, 16, False), (1, 16, False), (4, 16, False), (5, 16, True), (1, 1, True), (1, 4, False)],
)
def test_a_set_is_foreign_if_more_than_a_quarter_of_it_is(number, of, is_told):
    known = KnownImages(what="rooms", image_size=(64, 64), least_psnr_db=20.0)
    assert (known.describe(number, of) is not None) == is_told


@pytest.mark.slow
def test_what_a_backbone_says_of_images_is_no_part_of_what_it_is(tmp_path):
    folder = tmp_path / "diffusion"
    shutil.copytree(tiny_diffusion_folder(), folder)
    assert read_known_images(folder) is None
    before = load_backbone(folder)
    content = {"what": "rooms", "image_size": [32, 32], "least_psnr_db": 99}
    (folder / KNOWN_IMAGES_FILE).write_text(json.dumps(content))
    assert load_backbone(folder).model_id == before.model_id
    assert read_known_images(folder).count_foreign(before, [checks(48, seed=1)]) == 1


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        '{"what": "x", "image_size": 64, "least_psnr_db": 1}',
        '{"what": "x", "image_size": [64, 1000000], "least_psnr_db": 1}',
        '{"what": "x", "image_size": [64, 64], "least_psnr_db": "none"}',
        '{"what": "x", "image_size": [64, 64], "least_psnr_db": NaN}',
    ],
)
def test_a_file_that_says_something_else_is_named(tmp_path, content):
    (tmp_path / KNOWN_IMAGES_FILE).write_text(content)
    with pytest.raises(ConfigError, match=r"known_images\.json: wanted"):
        read_known_images(tmp_path)
