"""Rendered rooms: same bytes for the same seed, exact labels, captions that can be read back."""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs import render_rooms
from kit.renderer import caption as captions
from kit.renderer.caption import CaptionSlots, Thing
from kit.renderer.encode import encode_view
from kit.renderer.layout import build_room
from kit.renderer.render import RoomView, render_room
from kit.renderer.shapes import transformed, turn, unit_mesh
from kit.renderer.shards import shard_rows, write_shard
from schemas.errors import UserError
from sources.rooms_classes import CLASS_ID, CLASSES

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "data" / "rooms"
SEED = 7
SIZE = 32

renders = pytest.mark.skipif(
    find_spec("mitsuba") is None or find_spec("pyoidn") is None,
    reason="the extra 'rooms' (mitsuba, pyoidn) is not installed",
)


@pytest.fixture(scope="module")
def view() -> RoomView:
    return render_room(SEED, 1, size=SIZE, samples=2)[0]


def pixel_rays(view: RoomView) -> np.ndarray:
    """Directions [H, W, 3] in the camera frame, of unit length along the optical axis."""
    size = view.depth.shape[0]
    across = ((np.arange(size) + 0.5) / size * 2 - 1) * np.tan(np.radians(view.camera.fov_deg) / 2)
    x, y = np.meshgrid(across, -across)
    return np.stack([x, y, -np.ones_like(x)], axis=-1)


def of_class(view: RoomView, *names: str) -> np.ndarray:
    return np.isin(view.semseg, [CLASS_ID[name] for name in names])


@pytest.mark.slow
@renders
def test_a_seed_gives_the_same_bytes_however_many_views_are_asked_for(view: RoomView) -> None:
    again = render_room(SEED, 2, size=SIZE, samples=2)[0]
    assert encode_view(again) == encode_view(view)


@renders
def test_labels_have_the_promised_types_and_every_pixel_hits_the_room(view: RoomView) -> None:
    assert (view.image.dtype, view.image.shape) == (np.uint8, (SIZE, SIZE, 3))
    assert (view.depth.dtype, view.normals.dtype) == (np.float32, np.float32)
    assert view.semseg.dtype == np.uint8
    assert view.semseg.min() > 0
    assert view.semseg.max() < len(CLASSES)
    assert 0 < view.depth.min() < view.depth.max() < 12


@renders
def test_normals_are_unit_and_face_the_camera(view: RoomView) -> None:
    np.testing.assert_allclose(np.linalg.norm(view.normals, axis=-1), 1, atol=1e-5)
    assert ((view.normals * pixel_rays(view)).sum(-1) <= 1e-5).all()


@renders
def test_depth_of_walls_floor_and_ceiling_is_where_the_pixel_ray_leaves_the_room(
    view: RoomView,
) -> None:
    room = build_room(SEED)
    half = np.array([room.width_m / 2, room.height_m / 2, room.depth_m / 2])
    eye = view.camera.eye - [0, half[1], 0]
    world = pixel_rays(view) @ view.camera.axes()
    leaves = ((np.sign(world) * half - eye) / world).min(axis=-1)
    shell = of_class(view, "wall", "floor", "ceiling")
    assert shell.mean() > 0.2
    np.testing.assert_allclose(view.depth[shell], leaves[shell], atol=2e-4)


@renders
def test_floor_normals_point_up_in_the_world(view: RoomView) -> None:
    world = view.normals[of_class(view, "floor")] @ view.camera.axes()
    np.testing.assert_allclose(world, np.broadcast_to([0, 1, 0], world.shape), atol=1e-4)


@renders
def test_normals_agree_with_the_slope_of_the_depth(view: RoomView) -> None:
    points = view.depth[..., None] * pixel_rays(view)
    right = points[1:-1, 2:] - points[1:-1, :-2]
    up = points[:-2, 1:-1] - points[2:, 1:-1]
    slope = np.cross(right, up)
    slope /= np.linalg.norm(slope, axis=-1, keepdims=True)
    cosine = (slope * view.normals[1:-1, 1:-1]).sum(-1)
    assert np.degrees(np.arccos(np.clip(np.median(cosine), -1, 1))) < 1


@renders
def test_a_caption_states_only_objects_that_are_visible(view: RoomView) -> None:
    slots = captions.parse_caption(view.caption)
    assert slots.things
    for thing in slots.things:
        assert of_class(view, thing.name).mean() >= captions.MIN_SHARE


@renders
def test_a_finished_shard_is_skipped_and_a_new_one_has_the_same_bytes(tmp_path: Path) -> None:
    def run(folder: Path) -> Path:
        options = ["--first", "3", "--rooms", "1", "--views", "1", "--size", "16", "--spp", "1"]
        parsed = render_rooms.make_options([str(folder), *options])
        (task,) = render_rooms.plan_shards(parsed)
        folder.mkdir()
        write_shard(task)
        return task.path

    first, second = run(tmp_path / "a"), run(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    before = first.stat().st_mtime_ns
    options = [str(first.parent), "--first", "3", "--rooms", "1", "--views", "1"]
    render_rooms.main([*options, "--manifest"])
    assert first.stat().st_mtime_ns == before
    with tarfile.open(first) as tar:
        names = [member.name for member in tar]
    assert names == [f"room_000003_0.{part}" for part in encode_view(render_room(3, 1, size=8)[0])]
    assert names[-1].endswith(".json")


def test_without_mitsuba_the_error_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['mitsuba'] = None\n"
        "from schemas.errors import UserError\n"
        "from kit.renderer.render import render_room\n"
        "try:\n    render_room(0, 1)\n"
        "except UserError as error:\n    print(error)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pip install '.[rooms]'" in done.stdout


def test_a_wrong_count_is_refused() -> None:
    with pytest.raises(UserError, match="found --rooms 0"):
        render_rooms.plan_shards(render_rooms.make_options(["out", "--rooms", "0"]))


def test_a_room_is_the_same_for_the_same_seed_and_stands_within_its_walls() -> None:
    room, again = build_room(11), build_room(11)
    assert [item.class_name for item in room.objects] == [item.class_name for item in again.objects]
    for item in room.objects:
        if item.class_name in ("wall", "floor", "ceiling"):
            continue
        for part in item.parts:
            vertices = transformed(unit_mesh(part.kind), part.matrix).vertices
            assert (np.abs(vertices[:, 0]) <= room.width_m / 2 + 0.2).all()
            assert (vertices[:, 1] >= -1e-9).all()


def test_furniture_does_not_overlap() -> None:
    for seed in range(5):
        for one, other in itertools.combinations(build_room(seed).footprints, 2):
            assert one.is_clear_of(other, 0.05)


@pytest.mark.parametrize("kind", ["box", "cylinder", "sphere"])
def test_meshes_are_closed_and_wound_outward(kind: str) -> None:
    mesh = transformed(unit_mesh(kind), turn(0.7))  # type: ignore[arg-type]
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    flux = np.cross(b - a, c - a)
    np.testing.assert_allclose(flux.sum(0), 0, atol=1e-9)
    assert (a * flux).sum() / 6 > 0.8 * {"box": 8, "cylinder": np.pi, "sphere": 4.19}[kind]


@pytest.mark.parametrize(
    ("name", "rgb"),
    [
        ("white", (240, 240, 235)),
        ("grey", (120, 120, 122)),
        ("black", (30, 30, 33)),
        ("brown", (130, 85, 50)),
        ("red", (200, 45, 40)),
        ("yellow", (225, 190, 50)),
        ("green", (60, 160, 70)),
        ("blue", (60, 100, 200)),
    ],
)
def test_plain_colours_have_their_names(name: str, rgb: tuple[int, int, int]) -> None:
    assert captions.colour_name(*rgb) == name


def test_every_statement_survives_writing_and_reading() -> None:
    things = [
        Thing(colour, name, place)
        for colour in captions.COLOURS
        for name in captions.FURNITURE + captions.FALLBACK_OBJECTS
        for place in captions.PLACES
    ]
    rng = np.random.default_rng(0)
    surfaces = [*captions.COLOURS, None]
    for count in (0, 1, 2):
        for _ in range(50):
            chosen = tuple(things[i] for i in rng.integers(len(things), size=count))
            wall, floor = (surfaces[i] for i in rng.integers(len(surfaces), size=2))
            slots = CaptionSlots(chosen, wall, floor)
            text = captions.format_caption(slots)
            assert captions.parse_caption(text) == slots
            assert set(text.split(" ")) <= set(captions.vocabulary())
    assert len(captions.vocabulary()) < 60


def test_text_outside_the_grammar_gives_no_slots() -> None:
    empty = CaptionSlots((), None, None)
    assert captions.parse_caption("a a red red bed , purple walls , floor") == empty
    assert captions.parse_caption("") == empty


def test_the_caption_names_the_two_largest_objects_from_left_to_right() -> None:
    semseg = np.full((30, 30), CLASS_ID["wall"], np.uint8)
    instances = np.zeros((30, 30), np.uint16)
    image = np.full((30, 30, 3), 230, np.uint8)
    for index, (name, columns, rgb) in enumerate(
        [
            ("bed", slice(20, 29), (200, 40, 40)),
            ("door", slice(12, 19), (130, 85, 50)),
            ("chair", slice(1, 6), (50, 90, 200)),
            ("lamp", slice(6, 7), (225, 190, 50)),
        ],
        start=1,
    ):
        semseg[5:20, columns] = CLASS_ID[name]
        instances[5:20, columns] = index
        image[5:20, columns] = rgb
    expected = "a blue chair on the left and a red bed on the right , white walls"
    assert captions.caption_from_view(image, semseg, instances) == expected


def test_the_shipped_set_has_its_counts_and_its_splits_share_no_room() -> None:
    table = pq.read_table(SHIPPED / "manifest.parquet").to_pylist()
    by_split = {split: [r for r in table if r["split"] == split] for split in COUNTS}
    assert {split: len(rows) for split, rows in by_split.items()} == COUNTS
    assert len(table) == sum(COUNTS.values()) == len({row["key"] for row in table})
    for one, other in itertools.combinations(by_split.values(), 2):
        assert not {row["seed"] for row in one} & {row["seed"] for row in other}
    assert len({row["seed"] for row in by_split["test"]}) == COUNTS["test"]


def test_the_shipped_manifest_describes_the_shipped_shards() -> None:
    table = pq.read_table(SHIPPED / "manifest.parquet").to_pylist()
    found = [row for shard in sorted(SHIPPED.glob("*.tar")) for row in shard_rows(shard)]
    assert found == table
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 15e6


def test_a_shipped_sample_decodes_to_the_promised_forms() -> None:
    with tarfile.open(SHIPPED / "test-000000.tar") as tar:
        members = [tar.next() for _ in range(5)]
        parts = {m.name.partition(".")[2]: tar.extractfile(m).read() for m in members}
    facts = json.loads(parts.pop("json"))
    arrays = {name: np.asarray(Image.open(io.BytesIO(data))) for name, data in parts.items()}
    assert captions.parse_caption(facts["caption"]).wall
    assert all(array.shape[:2] == (64, 64) for array in arrays.values())
    assert arrays["depth.png"].dtype == np.uint16
    normals = arrays["normals.png"].astype(float) / 127.5 - 1
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=0.01)


COUNTS = {"train": 768, "validation": 64, "test": 256}
