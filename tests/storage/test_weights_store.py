"""Published weights: the manifest is the commit, and bytes are checked before they are used.

Both series of versions behave alike, and neither sees the other.
"""

from __future__ import annotations

from dataclasses import asdict

import pytest

from schemas.errors import AlreadyCommittedError, DamagedShardError, WeightsMismatchError
from schemas.run_layout import collected_weights_path, weights_dir
from schemas.weights import SERIES, WEIGHTS_FILE, WEIGHTS_MANIFEST, Series, WeightsManifest
from storage.files.stores import RunStore
from storage.records.weights import (
    WeightsWatch,
    collect_weights,
    expect_fits,
    latest_version,
    list_versions,
    publish_weights,
    read_manifest,
    read_weights,
)


@pytest.fixture(params=SERIES)
def series(request: pytest.FixtureRequest) -> Series:
    name: Series = request.param
    return name


def publish(
    store: RunStore, series: Series, version: int = 0, data: bytes = b"weights"
) -> WeightsManifest:
    return publish_weights(
        store,
        data,
        series=series,
        version=version,
        step=10,
        seen_images=160,
        ema_decay=0.998,
        base_model_hash="base",
        keys_hash="keys",
        stage="self_improve",
        parent=version - 1,
    )


def data_path(version: int, series: Series) -> str:
    return f"{weights_dir(version, series)}/{WEIGHTS_FILE}"


def test_published_weights_read_back(store: RunStore, series: Series) -> None:
    assert latest_version(store, series=series) is None
    assert list_versions(store, series=series) == []
    manifest = publish(store, series)
    assert (manifest.version, manifest.parent, manifest.size_bytes) == (0, -1, 7)
    assert read_weights(store, 0, series=series) == (manifest, b"weights")
    publish(store, series, 1)
    assert list_versions(store, series=series) == [0, 1]
    assert latest_version(store, series=series) == 1


def test_publishing_the_same_weights_again_is_harmless(store: RunStore, series: Series) -> None:
    first = publish(store, series)
    assert asdict(publish(store, series)) == asdict(first)


def test_other_weights_under_a_committed_version_are_refused(
    store: RunStore, series: Series
) -> None:
    publish(store, series, data=b"first")
    with pytest.raises(AlreadyCommittedError, match="another trainer"):
        publish(store, series, data=b"second")
    assert read_weights(store, 0, series=series)[1] == b"first"


def test_weights_without_manifest_are_not_visible(store: RunStore, series: Series) -> None:
    publish(store, series, 0)
    store.write_bytes(data_path(1, series), b"unfinished")
    store.write_bytes(weights_dir(0, series).replace("v00000000", "notes/manifest.json"), b"{}")
    assert list_versions(store, series=series) == [0]
    assert latest_version(store, series=series) == 0
    with pytest.raises(FileNotFoundError):
        read_weights(store, 1, series=series)


def test_what_a_dead_publisher_left_does_not_stop_the_next_one(
    store: RunStore, series: Series
) -> None:
    store.write_bytes(data_path(0, series), b"unfinished")
    manifest = publish(store, series, data=b"whole")
    assert read_weights(store, 0, series=series) == (manifest, b"whole")


def test_a_publisher_thought_dead_that_commits_late_keeps_its_bytes(
    store: RunStore, series: Series
) -> None:
    # Two publishers have written their bytes; the one that came first to the folder commits.
    store.write_bytes(data_path(0, series), b"first")
    publish(store, series, data=b"first")
    with pytest.raises(AlreadyCommittedError):
        publish(store, series, data=b"second")
    assert read_weights(store, 0, series=series)[1] == b"first"


@pytest.mark.parametrize("damage", [b"weightS", b"", b"weights and more"])
def test_damaged_weights_are_noticed(local_store: RunStore, series: Series, damage: bytes) -> None:
    publish(local_store, series)
    local_store.write_bytes(data_path(0, series), damage)
    with pytest.raises(DamagedShardError, match="good copy"):
        read_weights(local_store, 0, series=series)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"version": 0, "surprise": 1}'])
def test_a_damaged_manifest_is_noticed(local_store: RunStore, series: Series, text: bytes) -> None:
    publish(local_store, series)
    local_store.write_bytes(f"{weights_dir(0, series)}/{WEIGHTS_MANIFEST}", text)
    with pytest.raises(DamagedShardError, match="not a weights manifest"):
        read_weights(local_store, 0, series=series)


def test_weights_of_another_model_are_refused(local_store: RunStore, series: Series) -> None:
    manifest = publish(local_store, series)
    expect_fits(manifest, base_model_hash="base", keys_hash="keys")
    with pytest.raises(WeightsMismatchError, match="wanted keys_hash others, found keys"):
        expect_fits(manifest, base_model_hash="base", keys_hash="others")
    with pytest.raises(WeightsMismatchError, match="base_model_hash"):
        expect_fits(manifest, base_model_hash="other", keys_hash="keys")


def test_the_creation_weights_lie_where_they_always_did(local_store: RunStore) -> None:
    publish(local_store, "creation", 3)
    assert local_store.list_dir("weights/v00000003") == ["manifest.json", "model.safetensors"]
    publish(local_store, "creator", 3)
    assert local_store.list_dir("creator/v00000003") == ["manifest.json", "model.safetensors"]


def test_a_series_knows_nothing_of_the_versions_of_another(store: RunStore) -> None:
    publish(store, "creation", 0, b"labels")
    publish(store, "creation", 1, b"better labels")
    publish(store, "creator", 0, b"images")
    assert list_versions(store) == [0, 1]
    assert list_versions(store, series="creator") == [0]
    assert read_weights(store, 0)[1] == b"labels"
    assert read_weights(store, 0, series="creator")[1] == b"images"
    with pytest.raises(FileNotFoundError):
        read_weights(store, 1, series="creator")


def test_a_watch_follows_its_series_and_passes_over_what_is_damaged(
    local_store: RunStore, series: Series
) -> None:
    other: Series = "creator" if series == "creation" else "creation"
    publish(local_store, other, 7)
    watch = WeightsWatch(local_store, series=series)
    assert watch.newest() is None
    assert watch.newer_than(None) is None
    first = publish(local_store, series, 0, b"first")
    publish(local_store, series, 1, b"second")
    local_store.write_bytes(data_path(1, series), b"damaged")
    assert watch.newer_than(None) == (first, b"first")
    assert watch.newer_than(0) is None
    third = publish(local_store, series, 2, b"third")
    assert watch.newest() == third
    assert watch.newer_than(0) == (third, b"third")
    assert WeightsWatch(local_store, series=series, pinned=0).newer_than(2) == (first, b"first")


def test_of_a_removed_version_the_manifest_stays(local_store: RunStore, series: Series) -> None:
    first = publish(local_store, series, 0)
    publish(local_store, series, 1)
    folder = weights_dir(0, series)
    paths = [f"{folder}/{WEIGHTS_MANIFEST}", f"{folder}/{WEIGHTS_FILE}"]
    collect_weights(local_store, 0, paths, series=series)
    assert list_versions(local_store, series=series) == [1]
    kept = local_store.read_bytes(collected_weights_path(0, series)).decode()
    assert WeightsManifest.from_json(kept) == first
    assert read_manifest(local_store, 1, series=series).parent == 0
