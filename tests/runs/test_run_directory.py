"""A run directory has one science for ever, whichever version of the project began it."""

from __future__ import annotations

import hashlib
import json

import pytest
import yaml

from runs.directory import (
    claim_run_directory,
    describe_replacement,
    read_config,
    resumed_config,
)
from runs.generation import plan_of
from schemas.config_file import dump_config
from schemas.errors import ConfigError
from schemas.run_layout import CONFIG_FILE
from storage.files.stores import open_store
from storage.records.captions import CaptionRow, write_captions
from storage.records.events import read_events
from tests.kit.small_run import make_config

OTHER_OPERATIONS = {
    "model": {"device": "cpu:0", "vae_slicing": True},
    "creator": {"batch_size": 2},
    "generation": {"num_generators": 3},
}


@pytest.fixture
def config(tmp_path):
    return make_config(tmp_path)


def begun_by_an_older_version(config):
    """A directory as versions left it that noted no recipe and knew fewer fields."""
    store = open_store(config.run.url)
    tree = yaml.safe_load(dump_config(config))
    del tree["run"]["recipe"], tree["generation"]["max_attempts"]
    store.write_bytes(CONFIG_FILE, yaml.safe_dump(tree).encode())
    counted = {name: tree[name] for name in ("model", "creator")}
    text = json.dumps(counted, sort_keys=True, separators=(",", ":"))
    return store, hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def test_a_run_begun_by_an_older_version_goes_on_under_its_own_ids(config):
    store, recipe = begun_by_an_older_version(config)
    before = store.read_bytes(CONFIG_FILE)
    resumed = claim_run_directory(store, config)
    assert resumed == read_config(store)
    assert {unit.recipe_hash for unit in plan_of(resumed)} == {recipe}
    assert recipe != config.recipe_hash
    assert store.read_bytes(CONFIG_FILE) == before


def test_ids_of_an_older_version_stay_when_operations_change(config, tmp_path):
    store, recipe = begun_by_an_older_version(config)
    changed = make_config(tmp_path, **OTHER_OPERATIONS)
    assert claim_run_directory(store, changed).recipe_hash == recipe
    assert claim_run_directory(store, config).recipe_hash == recipe
    assert read_config(store).recipe_hash == recipe


def test_changed_operations_resume_count_from_then_on_and_leave_events(config, tmp_path):
    store = open_store(config.run.url)
    plan = plan_of(claim_run_directory(store, config))
    changed = make_config(tmp_path, **OTHER_OPERATIONS)
    resumed = claim_run_directory(store, changed)
    assert plan_of(resumed) == plan
    assert resumed == read_config(store)
    assert resumed.creator.batch_size == 2
    found = [event for event in read_events(store) if event["event"] == "config_changed"]
    assert {event["field"]: (event["old"], event["new"]) for event in found} == {
        "model.device": ("cpu", "cpu:0"),
        "model.vae_slicing": (False, True),
        "creator.batch_size": (4, 2),
        "generation.num_generators": (1, 3),
    }
    claim_run_directory(store, changed)
    assert len(list(read_events(store))) == len(found)


def test_a_dry_run_sees_the_resumed_configuration_and_writes_nothing(config, tmp_path):
    store = open_store(config.run.url)
    claim_run_directory(store, config)
    before = store.read_bytes(CONFIG_FILE)
    changed = make_config(tmp_path, **OTHER_OPERATIONS)
    assert resumed_config(store, changed).creator.batch_size == 2
    assert store.read_bytes(CONFIG_FILE) == before
    assert list(read_events(store)) == []


def make_something(store):
    write_captions(store, "train-000000", [CaptionRow("a", "a room", "source")])


def test_changed_science_is_refused_and_each_field_is_named(config, tmp_path):
    store = open_store(config.run.url)
    claim_run_directory(store, config)
    make_something(store)
    changed = make_config(
        tmp_path, creator={"t_start": 300, "batch_size": 1}, labelling={"soft_labels": True}
    )
    with pytest.raises(ConfigError) as caught:
        claim_run_directory(store, changed)
    said = str(caught.value)
    assert "creator.t_start: there 600, now 300" in said
    assert "labelling.soft_labels: there False, now True" in said
    assert "choose another run.url" in said
    assert "batch_size" not in said
    assert read_config(store) == config.noting_recipe()


def test_a_recipe_that_a_user_copied_from_another_run_does_not_count(config):
    copied = config.noting_recipe("0123456789abcdef")
    assert claim_run_directory(open_store(config.run.url), copied) == config.noting_recipe()


def test_a_run_that_was_moved_goes_on_where_it_is_now(config, tmp_path):
    claim_run_directory(open_store(config.run.url), config)
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = make_config(tmp_path, "moved")
    assert plan_of(claim_run_directory(open_store(moved.run.url), moved)) == plan_of(config)
    assert read_config(open_store(moved.run.url)).run.url == moved.run.url


@pytest.mark.parametrize("found", ["generation: {max_attempts: 7}\n", "nobody: knows\n"])
def test_another_configuration_is_refused(config, found):
    store = open_store(config.run.url)
    store.write_bytes(CONFIG_FILE, found.encode())
    make_something(store)
    with pytest.raises(ConfigError, match="holds a run of another configuration"):
        claim_run_directory(store, config)


def test_a_directory_for_which_nothing_was_made_takes_new_science_and_says_so(config, tmp_path):
    store = open_store(config.run.url)
    claim_run_directory(store, config)
    changed = make_config(tmp_path, creator={"t_start": 300})
    resumed = resumed_config(store, changed)
    told = describe_replacement(store, resumed)
    assert "a start replaces its configuration" in told[0]
    assert told[1:] == ["  creator.t_start: there 600, now 300"]
    taken = claim_run_directory(store, changed)
    assert taken == read_config(store) == changed.noting_recipe()
    fields = [event["field"] for event in read_events(store) if event["event"] == "config_changed"]
    assert "creator.t_start" in fields
    assert describe_replacement(store, taken) == []


def test_a_configuration_that_cannot_be_read_is_replaced_if_nothing_was_made(config):
    store = open_store(config.run.url)
    store.write_bytes(CONFIG_FILE, b"run: {url: x, gone: 1}")
    assert claim_run_directory(store, config) == read_config(store)
    store.write_bytes(CONFIG_FILE, b"run: {url: x, gone: 1}")
    make_something(store)
    with pytest.raises(ConfigError, match="another configuration"):
        claim_run_directory(store, config)


@pytest.mark.parametrize("text", [b"", b"run: {", b"["])
def test_a_damaged_configuration_of_a_begun_run_is_named_as_such(text, config):
    store = open_store(config.run.url)
    claim_run_directory(store, config)
    make_something(store)
    store.write_bytes(CONFIG_FILE, text)
    with pytest.raises(ConfigError, match=r"config\.resolved\.yaml.*is damaged") as caught:
        claim_run_directory(store, config)
    assert "configs/" not in str(caught.value)
    assert "another configuration" not in str(caught.value)
    store.remove_file(CONFIG_FILE)
    assert claim_run_directory(store, config) == read_config(store)


@pytest.mark.parametrize(
    "path",
    [
        "captions/train-000000.parquet",
        "manifest/units/r=0000/a.parquet",
        "manifest/compacted/part-000000.parquet",
        "checkpoints/warm_up/epoch-00000001/step-000004/creation.safetensors",
        "results.json",
    ],
)
def test_whatever_was_made_keeps_the_science(path, config, tmp_path):
    store = open_store(config.run.url)
    claim_run_directory(store, config)
    store.write_bytes(path, b"x")
    with pytest.raises(ConfigError, match="another configuration"):
        resumed_config(store, make_config(tmp_path, creator={"t_start": 300}))
