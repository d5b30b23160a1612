"""Captions made elsewhere, in files of the forms that people have."""

from __future__ import annotations

import json

import numpy as np
import pytest

from perception.file_captions import FileCaptions
from perception.shapes import ShapeError
from schemas.errors import ConfigError, SampleError


def make_images(count):
    return [np.zeros((8, 8, 3), np.uint8)] * count


@pytest.mark.parametrize("form", ["json", "folder"])
def test_captions_from_files_are_found_by_key(tmp_path, form):
    texts = {"k1": " a bed\n", "k2": "a lamp"}
    path = tmp_path / "captions.json"
    if form == "json":
        path.write_text(json.dumps(texts))
    else:
        path = tmp_path / "captions"
        path.mkdir()
        for key, text in texts.items():
            (path / f"{key}.txt").write_text(text)
    captions = FileCaptions.load(path)
    assert captions.caption(make_images(3), keys=["k2", "k1", "k2"]) == [
        "a lamp",
        "a bed",
        "a lamp",
    ]
    assert captions.model_id == FileCaptions(captions={"k2": "a lamp", "k1": "a bed"}).model_id
    assert captions.model_id != FileCaptions(captions={"k1": "a bed"}).model_id
    with pytest.raises(SampleError) as caught:
        captions.caption(make_images(1), keys=["k3"])
    assert caught.value.reason == "no_caption"
    with pytest.raises(ShapeError, match="2 keys"):
        captions.caption(make_images(2))


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "found nothing"), ("{}", "no captions"), ('{"k": 3}', "something else"), ("[", "JSON")],
)
def test_unusable_caption_files_are_refused(tmp_path, content, message):
    path = tmp_path / "captions.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        FileCaptions.load(path)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("0001.jpg", "0001"),
        ("0001.JPEG", "0001"),
        ("rgb/0001.png", "0001"),
        ("rgb\\0001.png", "0001"),
        ("/data/mine/rgb/kitchen/0001.png", "kitchen_0001"),
        ("kitchen/0001.left.png", "kitchen_0001_left"),
        ("ku\u0308che.jpg", "k\u00fcche"),
        ("train/0001.png", "train_0001"),
        ("0001.png", "validation_0001"),
    ],
)
def test_captions_are_found_by_the_name_of_the_image(tmp_path, name, key):
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({name: "a bed", "other.jpg": "a lamp"}))
    assert FileCaptions.load(path).caption(make_images(1), keys=[key]) == ["a bed"]


def test_a_name_that_two_captions_have_in_two_folders_is_none(tmp_path):
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({"a/0001.jpg": "a bed", "b/0001.jpg": "a lamp"}))
    captions = FileCaptions.load(path)
    assert captions.find("0001") is None
    assert captions.find("b_0001") == "a lamp"


ROWS = [{"file_name": "1.jpg", "text": "a bed"}, {"file_name": "2.jpg", "text": "a lamp, red"}]
FORMS = {
    "metadata.jsonl": "\n".join(json.dumps(row) for row in ROWS),
    "metadata.csv": 'file_name,text\n1.jpg,a bed\n2.jpg,"a lamp, red"\n',
    "metadata.tsv": "file_name\ttext\n1.jpg\ta bed\n2.jpg\ta lamp, red\n",
    "captions.json": json.dumps(ROWS),
    "kohya.json": json.dumps({row["file_name"]: {"caption": row["text"]} for row in ROWS}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_of_captions_are_read(tmp_path, form, encoding):
    (tmp_path / form).write_text(FORMS[form], encoding=encoding)
    for path in (tmp_path / form, tmp_path) if form.startswith("metadata") else (tmp_path / form,):
        captions = FileCaptions.load(path)
        assert [captions.find("1"), captions.find("2")] == ["a bed", "a lamp, red"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.txt", "0000.jpg a bed\n"),
        ("c.json", '{"0000": ["a bed"]}'),
        ("c.json", '{"0000": 5}'),
        ("c.json", '{"images": [], "annotations": []}'),
    ],
)
def test_other_forms_are_refused_with_those_that_are_read(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=r"rows with file_name and text .*or a folder of"):
        FileCaptions.load(tmp_path / name)


def test_rows_without_a_name_or_text_are_refused(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"picture": "1.jpg", "words": "a bed"}')
    with pytest.raises(ConfigError, match="wanted rows with file_name and text"):
        FileCaptions.load(tmp_path)


def test_what_cannot_be_seen_and_what_a_mac_left_behind_is_left_out(tmp_path):
    (tmp_path / "1.txt").write_text("\ufeffa bed\u00adroom 👩\u200d🍳\u200b")
    (tmp_path / "._1.txt").write_bytes(b"\0\5\x16\7")
    assert FileCaptions.load(tmp_path).captions == {"1": "a bedroom 👩\u200d🍳"}
