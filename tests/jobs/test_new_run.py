"""A stranger's folder becomes a run without a file being edited, or is explained."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from jobs.new_run import main
from runs.new_run import Machine, write_new_run
from schemas.config_file import load_config
from schemas.errors import ConfigError, SourceError
from schemas.sample import Sample
from sources.open import open_source
from sources.recognise.folder import recognise_folder
from tests.kit.photo_folder import HEIGHT, WIDTH, normals_code, save, scene, write_photos


@pytest.fixture
def root(tmp_path):
    return tmp_path / "photos"


@pytest.fixture
def new_run(tmp_path):
    """Description and configuration that are written, and what is said of the folder."""

    def run(folder):
        found = recognise_folder(folder)
        config = load_config(write_new_run(found, tmp_path / "first", Machine(num_gpus=0)))
        description = yaml.safe_load((tmp_path / "first/folder.yaml").read_text())
        contents = (f"{one.name} {what.said} {what.doubt}" for one, what in found.found)
        return description, config, "\n".join([*found.said, *contents])

    return run


def millimetres(made):
    return np.rint(made["depth"] * 1000).astype(np.uint16)


def mask_255(made):
    return np.where(made["ids"] == 2, np.uint8(255), np.uint8(0))


def test_a_file_and_a_place_that_cannot_be_written_are_refused_by_name(root, tmp_path):
    write_photos(root, ids=mask_255)
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match=r"file: a file; name the folder"):
        main([str(tmp_path / "file")])
    for out in (tmp_path / "file", tmp_path / "file/first"):
        with pytest.raises(ConfigError, match=rf"--out = {out}: .*file is no folder"):
            main([str(root), "--out", str(out)])


def test_labels_without_an_image_are_counted(root, new_run):
    write_photos(root, ids=mask_255)
    shutil.copy(root / "ids/0000.png", root / "ids/9999.png")
    _, _, said = new_run(root)
    assert "1 label of semseg without an image: not used" in said


def samples_of(config, split="train"):
    source = open_source(config.source, config.method.tasks)
    return [one for shard in source.shards(split) for one in source.read(shard)]


@pytest.mark.slow
def test_the_command_shows_checks_writes_and_says_what_is_next(root, tmp_path, capsys):
    write_photos(root, depth=millimetres, ids=lambda made: made["ids"])
    out = tmp_path / "first"
    main([str(root), "--out", str(out)])
    said = capsys.readouterr().out
    assert "looked at 4 of 4 train, 2 of 2 validation, 2 of 2 test" in said
    assert f"look at {out}/understood.png" in said
    assert f"next: .venv/bin/python jobs/self_improve.py --config {out}/config.yaml" in said
    with Image.open(out / "understood.png") as picture:
        assert picture.width > 3 * 192
        assert picture.height > 4 * 192
    assert "64×48 → 64×64: the sides are cut off (fit: crop" in said
    command = f".venv/bin/python jobs/self_improve.py --config {out}/config.yaml"
    assert f"next: {command} --dry-run\nthen: {command}\n" in said
    assert not (out / "run").exists()
    with pytest.raises(ConfigError, match=r"holds folder\.yaml already"):
        main([str(root), "--out", str(out)])
    assert not capsys.readouterr().out


def test_depth_normals_and_classes_are_told_from_what_the_files_hold(root, new_run):
    write_photos(
        root,
        mm=millimetres,
        surface=lambda made: normals_code(made["normals"]),
        ids=lambda made: made["ids"],
    )
    description, config, _ = new_run(root)
    assert description["labels"] == {
        "normals": {"pattern": "surface/{key}.png"},
        "depth": {"pattern": "mm/{key}.png", "unit": "mm"},
        "semseg": {"pattern": "ids/{key}.png", "num_classes": 3},
    }
    assert config.method.num_classes == 3
    samples = samples_of(config)
    assert all(isinstance(one, Sample) for one in samples)
    assert samples[0].labels["depth"].max() < 5


def test_masks_of_0_and_255_are_background_and_a_class_and_that_is_said(root, new_run):
    write_photos(root, mask=mask_255)
    description, config, said = new_run(root)
    assert description["labels"]["semseg"]["id_map"] == {0: 0, 255: 1}
    assert "masks hold 0 and 255: taken as" in said
    assert {1} < set(np.unique(samples_of(config)[0].labels["semseg"])) == {0, 1}


def write_mixed_masks(root, num_of_1):
    """Thirty masks; the last few hold 0 and 1, the others 0 and 255."""
    values = iter([255] * (30 - num_of_1) + [1] * num_of_1)
    return write_photos(
        root, 30, mask=lambda made: np.where(made["ids"] == 2, next(values), 0).astype(np.uint8)
    )


def test_a_few_masks_of_0_and_1_among_those_of_255_lose_no_foreground(root, new_run):
    description, config, said = new_run(write_mixed_masks(root, 2))
    assert description["labels"]["semseg"]["id_map"] == {0: 0, 1: 1, 255: 1}
    assert "28 masks hold 0 and 255, 2 hold 0 and 1: taken as background and class 1" in said
    assert all(set(np.unique(one.labels["semseg"])) == {0, 1} for one in samples_of(config))


def test_a_few_masks_of_another_name_hide_no_others_and_are_listed(root, new_run):
    for seed in range(20):
        made = scene(seed)
        save(root / f"photos/IMG_{seed:04d}.jpg", made["image"])
        end = ".semseg" if seed < 2 else "_mask"
        save(root / f"masks/IMG_{seed:04d}{end}.png", mask_255(made))
    description, config, said = new_run(root)
    assert description["labels"]["semseg"]["pattern"] == "masks/IMG_{key}_mask.png"
    assert "2 files do not follow masks/IMG_{key}_mask.png: masks/IMG_0000.semseg.png" in said
    assert "2 of 20 images lack the label" in said
    assert all(isinstance(one, Sample) for one in samples_of(config))


def test_255_beside_1_in_one_mask_stays_what_is_ignored(root, new_run):
    def with_border(made):
        ids = (made["ids"] == 2).astype(np.uint8)
        ids[0] = 255
        return ids

    description, _, said = new_run(write_photos(root, mask=with_border))
    assert "id_map" not in description["labels"]["semseg"]
    assert "255 is ignored" in said


def test_folders_of_splits_beside_their_labels_are_the_splits(root, new_run):
    for split, seeds in {"train": range(6), "val": range(6, 9)}.items():
        for seed in seeds:
            made = scene(seed)
            save(root / f"{split}/{seed:04d}.png", made["image"])
            save(root / f"{split}annot/{seed:04d}.png", made["ids"])
    description, config, said = new_run(root)
    assert description["image"] == {"train": "train/{key}.png", "test": "val/{key}.png"}
    assert description["labels"]["semseg"]["pattern"] == {
        "train": "trainannot/{key}.png",
        "test": "valannot/{key}.png",
    }
    assert "there is no test folder: the validation folder is scored as test" in said
    assert [one.key[-4:] for one in samples_of(config, "test")] == ["0006", "0007", "0008"]
    assert samples_of(config, "validation")


@pytest.mark.parametrize("name", ["{key}_mask.png", "{key}.label.png", "mask_{key}.png"])
def test_a_map_beside_its_image_is_known_by_its_name(root, new_run, name):
    for seed in range(8):
        made = scene(seed)
        save(root / f"{seed:04d}.jpg", made["image"])
        save(root / name.format(key=f"{seed:04d}"), made["ids"])
    description, config, _ = new_run(root)
    assert description["image"] == "{key}.jpg"
    assert description["labels"]["semseg"]["pattern"] == name
    assert isinstance(samples_of(config)[0], Sample)


def test_numbers_in_metres_need_no_unit_to_be_named(root, new_run):
    for seed in range(8):
        made = scene(seed)
        save(root / f"rgb/{seed}.jpg", made["image"])
        save(root / f"depth/{seed}.npy", made["depth"].astype(np.float32))
    description, _, said = new_run(root)
    assert description["labels"]["depth"] == {"pattern": "depth/{key}.npy", "unit": "m"}
    assert "taken as metres" in said


def test_sparse_depth_of_a_car_is_taken_in_its_unit(root, new_run):
    def sparse(made):
        depth = np.rint(made["depth"] * 10 * 256).astype(np.uint16)
        depth[np.random.default_rng(0).random(depth.shape) < 0.8] = 0
        return depth

    write_photos(root, depth=sparse)
    description, config, said = new_run(root)
    assert description["labels"]["depth"]["unit"] == "1/256"
    assert "KITTI" in said
    assert 10 < samples_of(config)[0].labels["depth"].max() < 50


def test_colours_of_classes_become_a_table(root, new_run):
    colours = np.array([(0, 0, 0), (128, 64, 0), (0, 0, 200)], np.uint8)
    write_photos(root, labels=lambda made: colours[made["ids"]])
    description, config, _ = new_run(root)
    assert description["labels"]["semseg"]["colors"] == ["#000000", "#0000c8", "#804000"]
    assert set(np.unique(samples_of(config)[0].labels["semseg"])) == {0, 1, 2}


def test_a_list_of_classes_names_them_and_tells_what_is_unlabelled(root, new_run):
    write_photos(root, labels=lambda made: made["ids"])
    (root / "classes.txt").write_text("0 unlabelled\n1 floor\n2 box\n")
    description, config, _ = new_run(root)
    semseg = description["labels"]["semseg"]
    assert (semseg["num_classes"], semseg["ignore"], semseg["id_offset"]) == (2, [0], -1)
    assert config.method.class_names == ("floor", "box")


def test_lists_of_splits_are_used(root, new_run):
    write_photos(root, depth=millimetres)
    (root / "train.txt").write_text("".join(f"rgb/{i:04d}.jpg depth/{i:04d}.png\n" for i in (1, 3)))
    (root / "test.txt").write_text("".join(f"rgb/{i:04d}.jpg depth/{i:04d}.png\n" for i in (0, 2)))
    description, config, said = new_run(root)
    assert description["splits"]["test"] == {"list": "test.txt"}
    assert "splits are those of" in said
    assert [one.key for one in samples_of(config, "test")] == ["0000", "0002"]


def test_rare_classes_are_found_in_all_files(root, new_run):
    def with_a_rare_class(made):
        with_a_rare_class.count += 1
        return np.where(with_a_rare_class.count == 30, np.uint8(7), made["ids"])

    with_a_rare_class.count = 0
    write_photos(root, 60, ids=with_a_rare_class)
    description, _, _ = new_run(root)
    assert description["labels"]["semseg"]["num_classes"] == 8


@pytest.mark.parametrize("image", ["rgb/IMG_{key}.jpg", "IMG_{key}.jpg"])
@pytest.mark.parametrize("mask", ["{folder}IMG_{key}.png", "{folder}IMG_{key}_mask.png"])
def test_names_that_a_camera_gives_are_kept(root, new_run, image, mask):
    folder = "mask/" if "/" in image else ""
    for seed in range(8):
        made = scene(seed)
        save(root / image.format(key=seed), made["image"])
        save(root / mask.format(key=seed, folder=folder), made["ids"])
    _, config, _ = new_run(root)
    assert len(samples_of(config)) == 4
    assert all(isinstance(one, Sample) for one in samples_of(config))


def test_of_several_class_maps_that_of_ids_is_taken(root, new_run):
    colours = np.array([(0, 0, 0), (128, 64, 128), (0, 0, 142)], np.uint8)
    for split in ("train", "val"):
        for seed in range(4):
            made, stem = scene(seed + len(split)), f"{split}/city/{seed}"
            save(root / f"leftImg8bit/{stem}_leftImg8bit.png", made["image"])
            save(root / f"gtFine/{stem}_gtFine_color.png", colours[made["ids"]])
            save(root / f"gtFine/{stem}_gtFine_labelIds.png", made["ids"])
            save(
                root / f"gtFine/{stem}_gtFine_instanceIds.png", made["ids"].astype(np.uint16) * 999
            )
    description, config, said = new_run(root)
    assert description["labels"]["semseg"]["pattern"]["train"].endswith("{key}_gtFine_labelIds.png")
    assert list(description["labels"]) == ["semseg"]
    assert "also looks like semseg, but" in said
    assert len(samples_of(config, "test")) == 4


def test_masks_in_three_equal_channels_are_classes(root, new_run):
    write_photos(root, mask=lambda made: np.repeat(mask_255(made)[..., None], 3, axis=2))
    _, config, _ = new_run(root)
    assert set(np.unique(samples_of(config)[0].labels["semseg"])) == {0, 1}


def test_ids_that_begin_at_one_leave_no_empty_class(root, new_run):
    write_photos(root, labels=lambda made: made["ids"] + 1)
    description, _, said = new_run(root)
    semseg = description["labels"]["semseg"]
    assert (semseg["num_classes"], semseg["id_offset"]) == (3, -1)
    assert "0 does not occur and is ignored" in said


def test_captions_beside_the_images_are_used(root, new_run):
    write_photos(root, depth=millimetres)
    for seed in range(8):
        (root / f"rgb/{seed:04d}.txt").write_text(f"a room {seed}")
    description, config, _ = new_run(root)
    assert description["caption"] == "rgb/{key}.txt"
    assert config.model.captioner == "source"
    assert samples_of(config)[0].caption.startswith("a room")


def test_scenes_with_folders_of_their_own_are_refused_with_the_way_out(root, new_run):
    for number in range(2):
        write_photos(root / f"scene{number}", 4, depth=millimetres)
    with pytest.raises(SourceError, match=r"lie together in 2 folders, such as scene0 and scene1"):
        new_run(root)


def test_images_without_a_label_are_left_out_and_counted(root, new_run):
    write_photos(root, 10, ids=lambda made: made["ids"])
    (root / "ids/0003.png").unlink()
    description, config, said = new_run(root)
    assert description["splits"]["train"] == {"all": True, "skip_unlabelled": True}
    assert "1 of 10 images lack the label of a task (semseg)" in said
    everything = [
        s.key for split in ("train", "validation", "test") for s in samples_of(config, split)
    ]
    assert sorted(everything) == [f"{i:04d}" for i in range(10) if i != 3]


def test_masks_of_a_few_images_are_enough_to_begin(root, new_run):
    write_photos(root, 12, ids=lambda made: made["ids"])
    for number in range(3, 12):
        (root / f"ids/{number:04d}.png").unlink()
    description, config, said = new_run(root)
    assert description["splits"]["train"] == {"all": True, "skip_unlabelled": True}
    assert "3 of 12 images have one" in said
    assert [len(samples_of(config, split)) for split in ("train", "test")] == [2, 1]


def test_a_refused_folder_leaves_nothing_behind(root, tmp_path):
    write_photos(root, depth=lambda made: millimetres(made)[::2, ::2])
    with pytest.raises(SourceError, match="its image"):
        main([str(root), "--out", str(tmp_path / "first")])
    assert not (tmp_path / "first").exists()


def test_what_is_not_used_is_named(root, new_run):
    write_photos(root, depth=millimetres, right=lambda made: made["image"])
    (root / "notes.docx").write_bytes(b"?")
    (root / "._0000.jpg").write_bytes(b"?")
    _, _, said = new_run(root)
    assert "right/{key}.png is left out: other photographs" in said
    assert "1 hidden" in said


def test_depth_of_8_bits_is_explained_and_not_guessed(root, new_run):
    write_photos(root, depth=lambda made: (made["depth"] * 50).astype(np.uint8))
    with pytest.raises(SourceError, match=r"labels\.depth\.range: \[nearest, farthest\]"):
        new_run(root)


def test_photographs_alone_are_refused_with_what_is_there(root, new_run):
    write_photos(root)
    with pytest.raises(SourceError, match=r"no label maps .* rgb/\{key\}\.jpg"):
        new_run(root)
    shutil.rmtree(root)
    with pytest.raises(SourceError, match="no such folder"):
        new_run(root)


def test_nothing_is_written_over_nor_among_the_images(root, tmp_path, new_run):
    write_photos(root, depth=millimetres)
    new_run(root)
    with pytest.raises(ConfigError, match=r"holds folder\.yaml already"):
        new_run(root)
    with pytest.raises(ConfigError, match="lies in the folder of the images"):
        main([str(root), "--out", str(root / "run")])


def test_a_machine_with_gpus_uses_them(root, tmp_path):
    write_photos(root, depth=millimetres)
    found = recognise_folder(root)
    one = load_config(write_new_run(found, tmp_path / "one", Machine(num_gpus=1)))
    three = load_config(write_new_run(found, tmp_path / "three", Machine(num_gpus=3)))
    assert (one.training.use_gpu, one.generation.gpus_per_generator) == (True, 0)
    assert (three.generation.num_generators, three.generation.gpus_per_generator) == (2, 1)


def test_scenes_below_the_folders_of_a_kind_belong_to_the_keys(root, new_run):
    for seed in range(8):
        made = scene(seed)
        save(root / f"images/scene{seed % 2}/{seed}.png", made["image"])
        save(root / f"labels/scene{seed % 2}/{seed}.png", made["ids"])
    description, config, _ = new_run(root)
    assert description["image"] == "images/{key}.png"
    assert description["splits"]["train"] == {"all": "deep"}
    assert samples_of(config)[0].image.shape == (64, 64, 3)
    assert (HEIGHT, WIDTH) == (48, 64)
