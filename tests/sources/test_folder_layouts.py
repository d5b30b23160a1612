"""Folders as people have them: layouts, lists and names of many systems."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import yaml

from schemas.config_source import FolderSource as FolderConfig
from schemas.errors import SourceError
from schemas.plain_files import open_plain
from schemas.sample import Sample
from sources.folder import FolderSource
from tests.kit.folder_files import HEIGHT, WIDTH, description, open_folder, png, read_all
from tests.kit.folder_files import write_folder as write_ten

SPLITS = ("train", "validation", "test")


def image_at(path: Path, value: int = 100) -> None:
    png(path, np.full((HEIGHT, WIDTH, 3), value, np.uint8))


def depth_at(path: Path) -> None:
    png(path, np.full((HEIGHT, WIDTH), 2500, np.uint16))


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "photographs"


@pytest.fixture
def tree(root) -> dict:
    """The description of a folder of depth that is still empty."""
    root.mkdir()
    tree = description(root)
    tree["labels"] = {"depth": {"pattern": "depth/{key}.png"}}
    tree["splits"] = {"train": {"all": True}}
    return tree


def opened(tree, tmp_path, **config):
    return open_folder(tree, tmp_path, ("depth",), **config)


def keys_of(source, split="train") -> list[str]:
    found = read_all(source, split)
    assert all(isinstance(each, Sample) for each in found), found
    return [each.key for each in found]


def error_of(tree, tmp_path) -> str:
    with pytest.raises(SourceError) as caught:
        opened(tree, tmp_path)
    return str(caught.value)


def pairs(root: Path, *names: str, image: str = "rgb/{}.png") -> None:
    for name in names:
        image_at(root / image.format(name))
        depth_at(root / f"depth/{name}.png")


# files passed over or taken by mistake


def test_what_systems_leave_beside_images_and_labels_is_no_sample(tree, root, tmp_path):
    pairs(root, "a", "b")
    for name in ("rgb/._a.png", "depth/._a.png", "rgb/.DS_Store", "rgb/Thumbs.db", "rgb/notes.txt"):
        (root / name).touch()
    source = opened(tree, tmp_path)
    assert keys_of(source) == ["a", "b"]
    assert source.notes == (f"{root}: 4 files not used: 3 hidden, 1 .txt",)


def test_a_suffix_is_found_in_any_case_and_of_any_picture(tree, root, tmp_path):
    pairs(root, "a", "b")
    pairs(root, "c", image="rgb/{}.JPG")
    pairs(root, "d", image="rgb/{}.jpeg")
    (root / "depth/b.png").rename(root / "depth/b.PNG")
    source = opened(tree, tmp_path)
    assert keys_of(source) == ["a", "b", "c", "d"]
    assert source.notes == ()


def test_a_listed_key_is_found_under_another_suffix(tree, root, tmp_path):
    pairs(root, "a", image="rgb/{}.JPG")
    (root / "train.txt").write_text("a\n")
    tree["splits"]["train"] = {"list": "train.txt"}
    assert keys_of(opened(tree, tmp_path)) == ["a"]


def test_pictures_without_labels_and_of_a_taken_name_are_counted(tree, root, tmp_path):
    pairs(root, "a")
    for name in ("a.jpg", "a_mask.jpg", "b.JPEG"):
        image_at(root / "rgb" / name)
    source = opened(tree, tmp_path)
    assert keys_of(source) == ["a"]
    (note,) = source.notes
    assert "2 pictures without all labels" in note
    assert "1 picture of a name that another has" in note


def test_pictures_that_do_not_fit_the_pattern_are_counted(tree, root, tmp_path):
    tree["image"] = "rgb/img_{key}.png"
    pairs(root, "a", image="rgb/img_{}.png")
    image_at(root / "rgb/other.png")
    (note,) = opened(tree, tmp_path).notes
    assert "1 picture that does not fit the pattern" in note


def test_a_folder_of_other_files_alone_is_named_with_what_is_there(tree, root, tmp_path):
    (root / "rgb").mkdir()
    for name in ("a.JXL", "b.JXL", "._a.jpg"):
        (root / "rgb" / name).touch()
    message = error_of(tree, tmp_path)
    assert "no key found" in message
    assert "3 files not used: 2 .JXL (save them as" in message


@pytest.mark.parametrize("label", ["{key}.png", "{key}_depth.png"])
def test_labels_beside_their_images_are_no_images(tree, root, tmp_path, label):
    tree["image"] = "{key}.jpg" if label == "{key}.png" else "{key}.png"
    tree["labels"]["depth"]["pattern"] = label
    for name in ("a", "b"):
        image_at(root / tree["image"].format(key=name))
        depth_at(root / label.format(key=name))
    assert keys_of(opened(tree, tmp_path)) == ["a", "b"]


def test_a_label_whose_image_is_missing_does_not_become_one(tree, root, tmp_path):
    tree["image"], tree["labels"]["depth"]["pattern"] = "{key}.jpg", "{key}.png"
    image_at(root / "a.jpg")
    depth_at(root / "a.png")
    depth_at(root / "b.png")
    assert keys_of(opened(tree, tmp_path)) == ["a"]
    (root / "train.txt").write_text("a\nb\n")
    tree["splits"]["train"] = {"list": "train.txt"}
    assert "b.jpg" in error_of(tree, tmp_path)


def test_linked_folders_are_searched_and_dangling_links_are_named(tree, root, tmp_path):
    pairs(tmp_path / "elsewhere", "a")
    (root / "rgb").symlink_to(tmp_path / "elsewhere/rgb")
    (root / "depth").symlink_to(tmp_path / "elsewhere/depth")
    (root / "rgb/gone.png").symlink_to("nowhere")
    source = opened(tree, tmp_path)
    assert keys_of(source) == ["a"]
    assert "1 link that leads nowhere" in source.notes[0]
    assert "gone.png" in source.notes[0]


# one odd file


def test_a_folder_in_place_of_a_file_is_one_unreadable_sample(tree, root, tmp_path):
    pairs(root, "a", "b")
    (root / "depth/a.png").unlink()
    (root / "depth/a.png").mkdir()
    bad, good = read_all(opened(tree, tmp_path))
    assert (bad.key, bad.reason, good.key) == ("a", "file_unreadable", "b")


def test_a_file_that_cannot_be_read_is_one_unreadable_sample(tree, root, tmp_path, monkeypatch):
    pairs(root, "a", "b")
    source = opened(tree, tmp_path)

    def open_one(path: Path) -> BinaryIO:
        if path == root / "rgb/a.png":
            raise PermissionError(13, "Permission denied", str(path))
        return open_plain(path)

    monkeypatch.setattr("sources.folder.open_plain", open_one)
    bad, good = read_all(source)
    assert (bad.key, bad.reason, good.key) == ("a", "file_unreadable", "b")
    assert "Permission denied; let this user read it" in bad.detail


# text of other systems


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_list_is_read_as_its_mark_says(tree, root, tmp_path, encoding):
    pairs(root, "a", "küche")
    (root / "train.txt").write_bytes("a\r\nküche\r\n".encode(encoding))
    tree["splits"]["train"] = {"list": "train.txt"}
    assert keys_of(opened(tree, tmp_path)) == ["a", "küche"]


def test_accents_are_compared_as_people_mean_them(tree, root, tmp_path):
    composed, parted = "k\u00fcche", "ku\u0308che"
    image_at(root / f"rgb/{parted}.png")
    depth_at(root / f"depth/{composed}.png")
    assert keys_of(opened(tree, tmp_path)) == [composed]
    (root / "train.txt").write_text(f"{composed}\n")
    tree["splits"]["train"] = {"list": "train.txt"}
    assert keys_of(opened(tree, tmp_path)) == [composed]


def test_a_name_in_other_case_is_found_if_there_is_one_alone(tree, root, tmp_path):
    pairs(root, "IMG_1")
    (root / "train.txt").write_text("img_1\n")
    tree["splits"]["train"] = {"list": "train.txt"}
    assert len(keys_of(opened(tree, tmp_path))) == 1
    pairs(root, "Img_1")
    assert "img_1.png" in error_of(tree, tmp_path)


@pytest.mark.parametrize(
    ("data", "caption"),
    [
        (b"\xef\xbb\xbfa room\r\n", "a room"),
        ("a room".encode("utf-16"), "a room"),
        ("a bed\u00adroom\u200b \ufeffhere".encode(), "a bedroom here"),
        ("a family 👨\u200d👩\u200d👧".encode(), "a family 👨\u200d👩\u200d👧"),
    ],
)
def test_signs_that_cannot_be_seen_leave_a_caption_as_it_is_meant(
    tree, root, tmp_path, data, caption
):
    pairs(root, "a")
    (root / "rgb/a.txt").write_bytes(data)
    tree["caption"] = "rgb/{key}.txt"
    (sample,) = read_all(opened(tree, tmp_path))
    assert sample.caption == caption
    assert opened(tree, tmp_path).notes == ()


@pytest.mark.parametrize(
    ("data", "why"), [(b"caf\xe9", "wanted UTF-8"), (b"a\x1b[2J", r"sign U\+001B")]
)
def test_a_caption_that_cannot_be_used_costs_no_image(tree, root, tmp_path, data, why):
    pairs(root, "a")
    (root / "rgb/a.txt").write_bytes(data)
    tree["caption"] = "rgb/{key}.txt"
    (sample,) = read_all(opened(tree, tmp_path))
    assert sample.caption == ""
    assert set(sample.labels) == {"depth"}
    assert re.search(why, sample.meta["caption_error"])


# layouts


def camvid(root: Path, tree: dict) -> None:
    for folder, count in {"train": 3, "val": 2, "test": 1}.items():
        for i in range(count):
            image_at(root / folder / f"{i}.png", value=10 * (i + 1))
            depth_at(root / f"{folder}annot" / f"{i}.png")
    tree["image"] = "{split}/{key}.png"
    tree["labels"]["depth"]["pattern"] = "{split}annot/{key}.png"
    tree["splits"] = {split: {"all": True} for split in SPLITS}


def test_patterns_name_the_folder_of_the_split(tree, root, tmp_path):
    camvid(root, tree)
    source = opened(tree, tmp_path)
    assert keys_of(source) == ["train_0", "train_1", "train_2"]
    assert keys_of(source, "validation") == ["validation_0", "validation_1"]
    assert keys_of(source, "test") == ["test_0"]


def test_a_split_may_say_its_folder(tree, root, tmp_path):
    camvid(root, tree)
    (root / "val").rename(root / "check")
    (root / "valannot").rename(root / "checkannot")
    assert "say splits.validation.folder" in error_of(tree, tmp_path)
    tree["splits"]["validation"]["folder"] = "check"
    assert keys_of(opened(tree, tmp_path), "validation") == ["validation_0", "validation_1"]


def test_what_is_held_out_keeps_the_folder_of_train(tree, root, tmp_path):
    camvid(root, tree)
    tree["splits"]["validation"] = {"hold_out": {"every": 3}}
    source = opened(tree, tmp_path)
    assert keys_of(source) == ["train_0", "train_1"]
    assert keys_of(source, "validation") == ["train_2"]


def test_each_split_may_have_patterns_of_its_own(tree, root, tmp_path):
    for name in ("a", "b"):
        image_at(root / f"learn/{name}.png")
        depth_at(root / f"learn_depth/{name}.png")
    image_at(root / "score/rgb_a.jpg")
    depth_at(root / "score/depth_a.png")
    tree["image"] = {"train": "learn/{key}.png", "test": "score/rgb_{key}.jpg"}
    tree["labels"]["depth"]["pattern"] = {
        "train": "learn_depth/{key}.png",
        "test": "score/depth_{key}.png",
    }
    tree["splits"]["test"] = {"all": True}
    source = opened(tree, tmp_path)
    assert keys_of(source) == ["train_a", "train_b"]
    assert keys_of(source, "test") == ["test_a"]
    del tree["labels"]["depth"]["pattern"]["test"]
    assert "labels.depth.pattern: has none for splits.test" in error_of(tree, tmp_path)


def test_of_several_patterns_the_first_that_leads_to_a_file_counts(tree, root, tmp_path):
    pairs(root, "a")
    image_at(root / "more/b.png")
    depth_at(root / "depth/b_corrected.png")
    depth_at(root / "depth/b.png")
    tree["image"] = ["rgb/{key}.png", "more/{key}.png"]
    tree["labels"]["depth"]["pattern"] = ["depth/{key}_corrected.png", "depth/{key}.png"]
    png(root / "depth/b_corrected.png", np.full((HEIGHT, WIDTH), 4000, np.uint16))
    first, second = sorted(read_all(opened(tree, tmp_path)), key=lambda sample: sample.key)
    assert (first.key, float(first.labels["depth"].max())) == ("a", 2.5)
    assert (second.key, float(second.labels["depth"].max())) == ("b", 4.0)


def test_a_key_may_come_more_than_once_in_a_pattern(tree, root, tmp_path):
    for name in ("a", "b"):
        image_at(root / name / f"{name}_rgb.png")
        depth_at(root / name / f"{name}_depth.png")
    image_at(root / "a/b_rgb.png")
    tree["image"] = "{key}/{key}_rgb.png"
    tree["labels"]["depth"]["pattern"] = "{key}/{key}_depth.png"
    assert keys_of(opened(tree, tmp_path)) == ["a", "b"]


def test_keys_of_folders_below_are_taken_if_asked_for(tree, root, tmp_path):
    pairs(root, "a", "kitchen/b", "kitchen/left/c")
    assert keys_of(opened(tree, tmp_path)) == ["a"]
    tree["splits"]["train"] = {"all": "deep"}
    assert keys_of(opened(tree, tmp_path)) == ["a", "kitchen_b", "kitchen_left_c"]


def test_train_is_all_that_no_other_list_names(tree, root, tmp_path):
    pairs(root, "a", "b", "c")
    (root / "test.txt").write_text("b\n")
    tree["splits"]["test"] = {"list": "test.txt"}
    source = opened(tree, tmp_path)
    assert (keys_of(source), keys_of(source, "test")) == (["a", "c"], ["b"])


@pytest.mark.parametrize(
    "line",
    [
        "a b",
        "a b.png",
        "rgb/a b.png",
        "./rgb/a b.png",
        "rgb\\a b.png",
        "rgb/a b.png\tdepth/a b.png",
        "rgb/a b.png,depth/a b.png",
        "a b.png,a b.png,518.8",
        '"rgb/a b.png","depth/a b.png"',
        "/data/other/machine/rgb/a b.png",
        "C:\\Users\\me\\photographs\\rgb\\a b.png",
    ],
)
def test_lines_of_a_list_are_read_as_people_write_them(tree, root, tmp_path, line):
    pairs(root, "a b")
    (root / "train.txt").write_text(line + "\n")
    tree["splits"]["train"] = {"list": "train.txt"}
    (sample,) = read_all(opened(tree, tmp_path))
    assert (sample.key, sample.meta["file_key"]) == ("a_b", "a b")


def test_a_list_of_two_columns_says_where_image_and_label_lie(tree, root, tmp_path):
    for name in ("1", "2"):
        image_at(root / f"drive/image_02/{name}.png")
        depth_at(root / f"proj/{name}.png")
    lines = [f"drive/image_02/{name}.png proj/{name}.png 721.5" for name in ("1", "2")]
    (root / "train.txt").write_text("\n".join([*lines, "drive/image_02/2.png None 721.5"]))
    tree["splits"]["train"] = {"list": "train.txt"}
    assert keys_of(opened(tree, tmp_path)) == ["drive_image_02_1", "drive_image_02_2"]


def test_columns_of_several_labels_are_named_by_the_description(tree, root, tmp_path):
    write_ten(root)
    tree["labels"]["semseg"] = description(root)["labels"]["semseg"]
    (root / "train.txt").write_text(
        "image,mask,depth\nrgb/0001.png,class/0001.png,depth/0002.png\n"
    )
    tree["splits"]["train"] = {"list": "train.txt"}
    assert "say what they are: columns: [image, depth, semseg]" in error_of(tree, tmp_path)
    tree["splits"]["train"]["columns"] = ["image", "semseg", "depth"]

    assert keys_of(opened(tree, tmp_path)) == ["0001"]
    tree["splits"]["train"]["columns"] = ["image", "colour"]
    assert "columns = ['image', 'colour']: wanted image once" in error_of(tree, tmp_path)


# splits


def test_a_share_by_hash_stays_when_images_are_added(tree, root, tmp_path):
    pairs(root, *(f"{i:02d}" for i in range(30)))
    tree["splits"]["test"] = {"hold_out": {"fraction": 0.3}}
    tree["splits"]["validation"] = {"hold_out": {"fraction": 0.2}}
    before = {split: keys_of(opened(tree, tmp_path), split) for split in SPLITS}
    assert sum(len(keys) for keys in before.values()) == 30
    assert 3 <= len(before["test"]) <= 15
    assert 1 <= len(before["validation"]) <= 12
    pairs(root, *(f"new{i:02d}" for i in range(20)))
    (root / "rgb/00.png").unlink()
    after = {split: keys_of(opened(tree, tmp_path), split) for split in SPLITS}
    for split in SPLITS:
        kept = [key for key in before[split] if key != "00"]
        assert [key for key in after[split] if not key.startswith("new")] == kept


def test_a_share_by_hash_may_keep_scenes_together(tree, root, tmp_path):
    pairs(root, *(f"scene{i}/{j}" for i in range(12) for j in range(3)))
    tree["splits"]["train"] = {"all": "deep"}
    tree["splits"]["test"] = {"hold_out": {"fraction": 0.4, "together": "folder"}}
    source = opened(tree, tmp_path)
    scenes = {split: {key[:-2] for key in keys_of(source, split)} for split in ("train", "test")}
    assert scenes["test"]
    assert not scenes["test"] & scenes["train"]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, "give either fraction or every"),
        ({"every": 2, "fraction": 0.5}, "give either fraction or every"),
        ({"every": 2, "together": "folder"}, "together goes with fraction"),
        ({"fraction": 0.5, "block": 2}, "block goes with every"),
    ],
)
def test_ways_to_hold_out_exclude_each_other(tree, root, tmp_path, rule, message):
    tree["splits"]["test"] = {"hold_out": rule}
    assert message in error_of(tree, tmp_path)


def test_numbers_with_zeros_are_no_octals(tree, root, tmp_path):
    pairs(root, "00010", "00011")
    tree["name"] = tree["splits"] = None
    text = yaml.safe_dump({name: value for name, value in tree.items() if value})
    file = tmp_path / "mine.yaml"
    file.write_text(text + "name: 2024-05-01\nsplits: {train: {range: [00010, 00011]}}\n")
    source = FolderSource(FolderConfig(description=str(file)), ("depth",))
    assert source.name == "2024-05-01"
    assert keys_of(source) == ["00010", "00011"]
