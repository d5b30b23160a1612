"""How often an object store is asked, by kind of request: listings must not grow with shards."""

from __future__ import annotations

import uuid
from collections import Counter

import pytest
import webdataset as wds

from pipeline.loop.local_runner import run_units
from sources.live_shards import LiveShardList
from sources.streams import SyntheticStream
from storage.files.stores import RunStore, open_store
from storage.manifests.table import manifest_table
from storage.samples.shards import register_webdataset_openers
from tests.kit import small_run
from tests.kit.committed_units import commit, image_unit, publish
from tests.kit.s3_server import S3Server

pytestmark = pytest.mark.slow

SAMPLES_PER_UNIT = 4


def filled(s3: S3Server, num_units: int) -> RunStore:
    store = open_store(f"{s3.url}/{uuid.uuid4().hex}")
    publish(store, 0)
    for number in range(num_units):
        commit(store, image_unit(f"n{number}x"), version=0)
    s3.forget()
    return store


def asked(s3: S3Server, store: RunStore) -> Counter[tuple[str, str]]:
    """Requests by operation and folder of the run."""
    root = store.root.removeprefix("bucket/")
    where = [(entry["operation"], entry["prefix"] or entry["path"]) for entry in s3.log()]
    inside = [(operation, path.partition(f"{root}/")[2]) for operation, path in where]
    return Counter((operation, path.partition("/")[0]) for operation, path in inside)


def train_once_through(s3: S3Server, num_units: int) -> Counter[tuple[str, str]]:
    """Draw samples of a run of so many shards until each has come, in one poll of manifests."""
    store = filled(s3, num_units)
    stream = SyntheticStream(store, LiveShardList(store, poll_s=1e9), seed=0)
    drawn: set[str] = set()
    for _ in range(30 * num_units):
        drawn.add(stream.draw()[0].key)
    assert len(drawn) == num_units * SAMPLES_PER_UNIT
    return asked(s3, store)


def test_training_lists_no_tars_and_listings_do_not_grow_with_shards(s3):
    few, many = train_once_through(s3, 3), train_once_through(s3, 24)
    for found in (few, many):
        assert {folder for operation, folder in found if operation == "LIST"} == {
            "manifest",
            "weights",
        }
    assert {key: n for key, n in few.items() if key[0] == "LIST"} == {
        key: n for key, n in many.items() if key[0] == "LIST"
    }
    assert few["GET", "shards"] == 3
    assert many["GET", "shards"] == 24
    assert ("HEAD", "shards") not in many


def test_webdataset_reads_the_shards_of_the_manifest_without_a_listing(s3):
    store = filled(s3, 3)
    table = manifest_table(store)
    tars = sorted(set(table.column("tar_uri").to_pylist()))
    register_webdataset_openers()
    s3.forget()
    shards = wds.SimpleShardList([store.uri(tar) for tar in tars])
    found = [sample["__key__"] for sample in wds.DataPipeline(shards, wds.tarfile_to_samples())]
    assert sorted(found) == sorted(table.column("key").to_pylist())
    operations = {operation for operation, _ in asked(s3, store)}
    assert "GET" in operations
    assert "LIST" not in operations


def test_a_unit_is_two_puts_however_many_there_are(s3, tmp_path):
    url = f"{s3.url}/{uuid.uuid4().hex}"
    config = small_run.make_config(tmp_path, run={"url": url}, plan={"unit_size": 1})
    store = small_run.prepare(config)
    control, generator = small_run.make_control(config), small_run.make_generator(config)
    s3.forget()
    assert run_units(control, generator, store).kind == "finished"
    found, num_units = asked(s3, store), 8
    assert found["PUT", "shards"] == found["PUT", "manifest"] == num_units
    assert sum(n for (operation, _), n in found.items() if operation == "PUT") == 2 * num_units
    assert ("LIST", "shards") not in found
    assert ("GET", "manifest") not in found or found["GET", "manifest"] <= num_units
