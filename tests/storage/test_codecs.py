"""Codecs: what is encoded reads back within the code's step; bad bytes become SampleErrors."""

from __future__ import annotations

import io
import json
import struct
import zlib
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from schemas.errors import SampleError
from schemas.sample import MEMBER_ORDER, TASK_KINDS, TASKS, Sample, Task
from storage.samples import codecs, members
from tests.kit.random_labels import is_invalid, random_label, random_sample


def unit_normals(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, 1, 3))
    return (vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).astype(np.float32)


def make_sample() -> Sample:
    return random_sample(0)


def image_bytes(picture: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=image_format, **options)
    return buffer.getvalue()


def angle_deg(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    cross = np.linalg.norm(np.cross(a.astype(np.float64), b.astype(np.float64)), axis=-1)
    return np.degrees(np.arctan2(cross, (a.astype(np.float64) * b).sum(-1)))


def test_a_sample_reads_back() -> None:
    sample = make_sample()
    members = codecs.encode_sample(sample)
    assert set(members) == set(MEMBER_ORDER)
    back = codecs.decode_sample(sample.key, members)
    np.testing.assert_array_equal(back.image, sample.image)
    assert list(back.labels) == list(back.reliability) == list(TASKS)
    assert (back.key, back.caption, back.is_synthetic, back.meta) == (
        sample.key,
        sample.caption,
        sample.is_synthetic,
        sample.meta,
    )


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", range(3))
def test_every_label_reads_back_within_its_code_and_keeps_its_invalid_pixels(
    task: Task, seed: int
) -> None:
    label = random_label(task, (32, 48), seed=seed)
    back = codecs.decode_label(codecs.encode_label(label, task), task)
    assert back.dtype == label.dtype
    invalid = is_invalid(label, task)
    np.testing.assert_array_equal(is_invalid(back, task), invalid)
    kind = TASK_KINDS[task]
    if kind == "direction":
        assert angle_deg(back[~invalid], label[~invalid]).max() < 0.4
    else:
        bound = {"distance": 0.0005, "classes": 0.0, "probability": 1 / 508}[kind]
        np.testing.assert_allclose(back, label, atol=bound + 1e-6, rtol=0)


@pytest.mark.parametrize("task", TASKS)
def test_every_confidence_reads_back_within_its_code(task: Task) -> None:
    sure = make_sample().reliability[task]
    back = codecs.decode_reliability(codecs.encode_reliability_png(sure, task=task), task=task)
    bound = 0.5 if TASK_KINDS[task] == "direction" else 0.5 / 255
    np.testing.assert_allclose(back, sure, atol=bound + 1e-6, rtol=0)


def test_hard_probabilities_read_back_exactly_and_odd_ones_are_ignored() -> None:
    values = np.float32([[0, 1, 0.5, -1], [-0.1, np.nan, np.inf, 1.5]])
    back = codecs.decode_label(codecs.encode_label(values, "saliency"), "saliency")
    assert back.tolist() == [[0, 1, 0.5, -1], [-1, -1, -1, 1]]


@pytest.mark.parametrize("task", ["semseg", "human_parts", "saliency", "boundaries"])
def test_messages_name_the_task(task: Task) -> None:
    with pytest.raises(ValueError, match=f"{task}: wanted"):
        codecs.encode_label(np.zeros((2, 2), np.int32), task)
    with pytest.raises(SampleError, match=f"{task}: wanted"):
        codecs.decode_label(image_bytes(Image.new("RGB", (2, 2)), "PNG"), task)


def test_the_second_encoding_equals_the_first() -> None:
    members = codecs.encode_sample(make_sample())
    assert codecs.encode_sample(codecs.decode_sample("s0", members)) == members


def test_a_sample_may_lack_labels_and_json() -> None:
    sample = make_sample()
    members = {"image.png": codecs.encode_image_png(sample.image), "thumbnail.jpg": b"?"}
    back = codecs.decode_sample("k", members)
    assert back.labels == {}
    assert back.caption == ""
    assert not back.is_synthetic


def test_the_code_of_normals_errs_less_than_half_a_degree() -> None:
    normals = unit_normals(100_000)
    back = codecs.decode_normals(codecs.encode_normals_png(normals))
    assert angle_deg(back, normals).max() < 0.4
    np.testing.assert_allclose(np.linalg.norm(back, axis=2), 1, atol=1e-5)


def test_no_unit_normal_gets_the_code_of_invalid() -> None:
    corner = -np.ones(3) / np.sqrt(3)
    normals = np.concatenate([unit_normals(100_000)[:, 0], -np.eye(3), [corner]])
    image = codecs.encode_normals_png(normals[:, None].astype(np.float32))
    code = np.array(Image.open(io.BytesIO(image)))
    assert code.any(axis=2).all()
    assert code.reshape(-1, 3)[-1].tolist() == [54, 54, 54]


def test_invalid_normals_stay_invalid() -> None:
    normals = unit_normals(4).reshape(2, 2, 3)
    normals[0, 0] = 0
    normals[0, 1] = np.nan
    normals[1, 0] *= 7
    back = codecs.decode_normals(codecs.encode_normals_png(normals))
    assert not back[0].any()
    assert angle_deg(back[1, 0], normals[1, 0]) < 0.5


def test_mid_grey_is_not_taken_for_a_normal() -> None:
    grey = image_bytes(Image.new("RGB", (2, 2), (128, 127, 128)), "PNG")
    assert not codecs.decode_normals(grey).any()


def test_depth_is_whole_millimetres_and_zero_where_unknown() -> None:
    depth = np.array([[0.0, np.nan, np.inf, -1.0], [0.0001, 1.2344, 65.535, 80.0]], np.float32)
    back = codecs.decode_depth(codecs.encode_depth_png(depth))
    np.testing.assert_allclose(back, [[0, 0, 0, 0], [0.001, 1.234, 65.535, 0]], atol=1e-6)
    assert back.dtype == np.float32


def test_confidence_that_is_not_finite_is_the_least_sure() -> None:
    values = np.array([[np.nan, np.inf, -3.0, 200.0]], np.float32)
    degrees = codecs.decode_reliability(
        codecs.encode_reliability_png(values, task="normals"), task="normals"
    )
    assert degrees.tolist() == [[180, 180, 0, 180]]
    probability = codecs.decode_reliability(
        codecs.encode_reliability_png(values, task="semseg"), task="semseg"
    )
    assert probability.tolist() == [[0, 0, 0, 1]]


def test_a_palette_gives_class_ids_not_colours() -> None:
    picture = Image.fromarray(np.array([[3, 255]], np.uint8))
    picture.putpalette([value for i in range(256) for value in (i, 255 - i, 0)])
    data = image_bytes(picture.copy(), "PNG")
    assert Image.open(io.BytesIO(data)).mode == "P"
    assert codecs.decode_class_ids(data).tolist() == [[3, 255]]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_every_kind_of_png_becomes_rgb(mode: str) -> None:
    image = codecs.decode_image(image_bytes(Image.new(mode, (4, 3), 1), "PNG"))
    assert image.shape == (3, 4, 3)
    assert image.dtype == np.uint8


def test_cmyk_photographs_become_rgb() -> None:
    red = Image.new("RGB", (16, 16), (250, 10, 10)).convert("CMYK")
    image = codecs.decode_image(image_bytes(red, "JPEG", quality=95))
    assert image.shape == (16, 16, 3)
    assert image[8, 8, 0] > 200
    assert image[8, 8, 1] < 60


def test_16_bit_grey_keeps_its_upper_bits() -> None:
    grey = Image.fromarray(np.array([[0, 255, 256, 65535]], np.uint16))
    image = codecs.decode_image(image_bytes(grey, "PNG"))
    assert image[0, :, 0].tolist() == [0, 0, 1, 255]
    assert (image == image[..., :1]).all()


def test_the_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate a quarter turn clockwise to display
    picture = Image.new("RGB", (32, 16))
    picture.paste((255, 255, 255), (0, 0, 16, 16))
    image = codecs.decode_image(image_bytes(picture, "JPEG", exif=exif, quality=95))
    assert image.shape == (32, 16, 3)
    assert image[4, 8, 0] > 200
    assert image[28, 8, 0] < 50


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


@pytest.mark.parametrize(("width", "height"), [(8193, 8192), (60_000, 60_000)])
def test_a_huge_image_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    with pytest.raises(SampleError) as caught:
        codecs.decode_image(bomb(width, height))
    assert caught.value.reason == "too_large"


def test_the_size_limit_can_be_set() -> None:
    data = codecs.encode_image_png(np.zeros((4, 4, 3), np.uint8))
    codecs.decode_image(data, max_pixels=16)
    with pytest.raises(SampleError, match="too_large"):
        codecs.decode_image(data, max_pixels=15)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
def test_damaged_images_are_sample_errors_whatever_the_damage(image_format: str) -> None:
    rng = np.random.default_rng(1)
    picture = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    good = image_bytes(picture, image_format)
    for cut in range(0, len(good) - 16, 41):
        with pytest.raises(SampleError) as caught:
            codecs.decode_image(good[:cut])
        assert caught.value.reason == "decode_failed"
    for _ in range(100):
        damaged = bytearray(good)
        for position in rng.integers(0, len(good), 8):
            damaged[position] = rng.integers(0, 256)
        with suppress(SampleError):
            codecs.decode_image(bytes(damaged))


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "WEBP", "AVIF"])
def test_other_formats_are_read_whatever_the_file_is_called(form: str) -> None:
    picture = Image.new("RGB", (8, 4), (250, 10, 10))
    image = codecs.decode_image(image_bytes(picture, form))
    np.testing.assert_allclose(image, np.full((4, 8, 3), (250, 10, 10)), atol=8)


def test_heic_is_read_with_its_extra() -> None:
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    picture = Image.new("RGB", (64, 32), (200, 30, 30))
    heif.from_pillow(picture).save(buffer, quality=90)
    image = codecs.decode_image(buffer.getvalue())
    np.testing.assert_allclose(image, np.full((32, 64, 3), (200, 30, 30)), atol=8)
    with pytest.raises(SampleError, match="found a damaged HEIC"):
        codecs.decode_image(buffer.getvalue()[:200])


def test_without_the_extra_heic_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "HAS_HEIC", False)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
    with pytest.raises(SampleError, match=r"found HEIC; .*pip install '\.\[heic\]'"):
        codecs.decode_image(heic)


@pytest.mark.parametrize(
    ("member", "content", "reason"),
    [
        ("normals.png", Image.new("L", (8, 6)), "label_format"),
        ("depth.png", Image.new("L", (8, 6)), "label_format"),
        ("semseg.png", Image.new("RGB", (8, 6)), "label_format"),
        ("semseg.png", Image.new("L", (8, 5)), "label_size_differs"),
        ("normals_confidence.png", Image.new("L", (7, 6)), "label_size_differs"),
    ],
)
def test_labels_of_the_wrong_kind_have_a_reason(
    member: str, content: Image.Image, reason: str
) -> None:
    members = codecs.encode_sample(make_sample()) | {member: image_bytes(content, "PNG")}
    with pytest.raises(SampleError) as caught:
        codecs.decode_sample("k", members)
    assert caught.value.reason == reason


@pytest.mark.parametrize("text", [b"{", b"[1]", b"\xff\xfe\x00"])
def test_a_damaged_json_has_a_reason(text: bytes) -> None:
    with pytest.raises(SampleError) as caught:
        codecs.decode_sample("k", codecs.encode_sample(make_sample()) | {"json": text})
    assert caught.value.reason == "json_invalid"


def test_a_sample_without_image_has_a_reason() -> None:
    with pytest.raises(SampleError) as caught:
        codecs.decode_sample("k", {"json": b"{}"})
    assert caught.value.reason == "member_missing"


@pytest.mark.parametrize(
    "change",
    [
        {"image": np.zeros((6, 8), np.uint8)},
        {"image": np.zeros((6, 8, 3), np.float32)},
        {"labels": {"semseg": np.zeros((6, 8), np.int64)}},
        {"labels": {"depth": np.zeros((5, 8), np.float32)}},
        {"labels": {"normals": np.zeros((6, 8), np.float32)}},
        {"labels": {"human_parts": np.zeros((6, 8), np.float32)}},
        {"labels": {"saliency": np.zeros((6, 8), np.uint8)}},
        {"labels": {"boundaries": np.zeros((6, 8, 1), np.float32)}},
        {"reliability": {"depth": np.zeros((6, 8, 1), np.float32)}},
        {"meta": {"caption": "twice"}},
        {"meta": {"array": np.zeros(2)}},
        {"meta": {"score": float("nan")}},
    ],
)
def test_a_malformed_sample_is_not_encoded(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"wanted|rename|plain JSON|JSON compliant"):
        codecs.encode_sample(replace(make_sample(), **change))


def test_the_json_member_is_flat_and_readable() -> None:
    document = json.loads(codecs.encode_sample(make_sample())["json"])
    assert document["caption"] == "a small room with a red chair"
    assert document["seed"] == 3
