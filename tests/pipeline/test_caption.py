"""The caption pass."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from pipeline.loop.local_runner import run_units
from pipeline.make.build import open_captioner
from pipeline.make.caption import (
    SourceCaptions,
    caption_shard,
    caption_source,
    shards_without_captions,
)
from pipeline.on_ray.captions import CaptionShards
from schemas.config_source import FolderSource
from schemas.errors import RunFailedError
from sources.open import open_run_source
from storage.files.stores import open_store
from storage.records.captions import CaptionRow, read_captions, write_captions
from tests.kit.folder_files import write_folder
from tests.kit.memory_source import MemorySource
from tests.kit.models.tiny_captioners import write_captioner
from tests.kit.small_run import (
    BROKEN_KEY,
    SHARDS,
    all_rows,
    make_config,
    make_control,
    make_generator,
    publish,
    write_source,
)
from tests.kit.tiny_models import tiny_captioner_folder


def test_every_readable_image_is_captioned_by_the_model(tmp_path):
    write_source(tmp_path / "source", with_broken_image=True)
    folder = str(tiny_captioner_folder())
    config = make_config(tmp_path, model={"captioner": "blip2", "captioner_path": folder})
    store = open_store(config.run.url)
    assert caption_source(store, open_run_source(config), open_captioner(config)) == len(SHARDS)
    captions = read_captions(store)
    assert len(captions) == 7
    assert (SHARDS[1], BROKEN_KEY) not in captions
    assert all(row.model.startswith("blip2:") for row in captions.values())


def test_a_captioner_that_cannot_be_used_is_loaded_once_and_named_for_each_shard(tmp_path):
    write_source(tmp_path / "source")
    folder = shutil.copytree(tiny_captioner_folder(), tmp_path / "captioner")
    (folder / "config.json").write_text("{}")
    config = make_config(tmp_path, model={"captioner": "blip2", "captioner_path": str(folder)})
    work = CaptionShards(config, config.run.url, 8)
    first = work({"shard": [SHARDS[0]]})
    shutil.rmtree(folder)
    second = work({"shard": [SHARDS[1]]})
    assert first["problem"] == second["problem"]
    assert str(folder) in first["problem"][0]
    assert not any(second["captions"] + second["is_passing"])


@pytest.mark.slow
def test_another_image_to_text_model_is_named_in_every_row(tmp_path):
    folder = write_captioner("git", tmp_path / "git")
    model = {"captioner": "image_to_text", "captioner_path": str(folder)}
    config = make_config(tmp_path, model=model)
    store, captioner = open_store(config.run.url), open_captioner(config)
    caption_source(store, open_run_source(config), captioner)
    rows = read_captions(store).values()
    assert len(rows) == 8
    assert {row.model for row in rows} == {captioner.model_id}
    assert captioner.model_id.startswith("git:")


def test_only_shards_without_captions_are_done(tmp_path):
    config = make_config(tmp_path)
    store, source = open_store(config.run.url), open_run_source(config)
    write_captions(store, SHARDS[0], [CaptionRow("x", "kept as it is", "hand")])
    assert [s.name for s in shards_without_captions(store, source.shards("train"))] == [SHARDS[1]]
    assert caption_source(store, source, open_captioner(config)) == 1
    assert read_captions(store)[SHARDS[0], "x"].caption == "kept as it is"
    assert caption_source(store, source, open_captioner(config)) == 0


class FailingCaptioner:
    """Fails on every image whose key does not end so."""

    model_id = "failing"

    def __init__(self, *good: str) -> None:
        self.good = good
        self.asked: set[str] = set()

    def caption(self, images, *, keys=None):
        self.asked.update(keys)
        if not all(key.endswith(self.good) for key in keys):
            raise TypeError("got an unexpected keyword argument 'image_token'")
        return ["a room"] * len(images)


def test_a_captioner_that_fails_on_every_image_stops_the_pass_and_is_named(tmp_path):
    config = make_config(tmp_path)
    store = open_store(config.run.url)
    with pytest.raises(RunFailedError, match=r"8 of 8 fail the same way, TypeError: got an un"):
        caption_source(store, open_run_source(config), FailingCaptioner())


def test_a_long_pass_stops_after_its_first_batch(tmp_path):
    source, captioner = MemorySource(200, shard_keys=64), FailingCaptioner()
    with pytest.raises(RunFailedError, match="16 of 16 fail"):
        caption_source(open_store(str(tmp_path)), source, captioner)
    assert len(captioner.asked) == 16


def test_a_captioner_that_fails_on_some_images_costs_only_those(tmp_path):
    config = make_config(tmp_path)
    store = open_store(config.run.url)
    caption_source(store, open_run_source(config), FailingCaptioner("-01", "-02"))
    assert len(read_captions(store)) == 4


def test_an_image_without_a_caption_becomes_a_failed_row(tmp_path):
    file = tmp_path / "captions.json"
    keys = [f"{shard}-{i:02d}" for shard in SHARDS for i in range(4)]
    file.write_text(json.dumps({key: f"text of {key}" for key in keys[1:]}))
    config = make_config(tmp_path, model={"captioner": "file", "captioner_path": str(file)})
    store, source = open_store(config.run.url), open_run_source(config)
    rows = caption_shard(source, source.shards("train")[0], open_captioner(config))
    assert [row.key for row in rows] == keys[1:4]
    caption_source(store, source, open_captioner(config))
    publish(config, 0)
    assert run_units(make_control(config), make_generator(config), store).kind == "finished"
    made = {row.source_key: row for row in all_rows(config)}
    assert made.pop(keys[0]).error_class == "caption_missing"
    assert {row.caption for row in made.values()} == {f"text of {key}" for key in keys[1:]}


def test_an_own_caption_that_cannot_be_read_becomes_a_failed_row_with_the_reason(tmp_path):
    root = tmp_path / "photographs"
    tree = write_folder(root)
    (root / "train.txt").write_text("0000\n0001\n0002\n0003\n")
    for key in ("0000", "0001", "0002"):
        (root / f"rgb/{key}.txt").write_text("a room")
    (root / "rgb/0003.txt").write_bytes(b"caf\xe9")
    tree |= {"caption": "rgb/{key}.txt", "size": [32, 32]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    config = make_config(tmp_path, model={"captioner": "source"})
    folder = FolderSource(description=str(tmp_path / "mine.yaml"))
    config = config.model_copy(update={"source": folder})
    store = open_store(config.run.url)
    caption_source(store, open_run_source(config), SourceCaptions())
    publish(config, 0)
    run_units(make_control(config), make_generator(config), store)
    made = {row.source_key: row for row in all_rows(config)}
    assert made["0003"].error_class == "caption_invalid"
    assert "0003.txt: wanted UTF-8" in made["0003"].error_msg
    assert {made[key].caption for key in ("0000", "0001", "0002")} == {"a room"}
