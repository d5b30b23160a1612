"""Published weights: the manifest is the commit, and bytes are checked before they are used."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from schemas.errors import AlreadyCommittedError, DamagedShardError, WeightsMismatchError
from schemas.weights import WeightsManifest
from storage.files.stores import RunStore
from storage.records.weights import (
    expect_fits,
    latest_version,
    list_versions,
    publish_weights,
    read_weights,
)


def publish(store: RunStore, version: int = 0, data: bytes = b"weights") -> WeightsManifest:
    return publish_weights(
        store,
        data,
        version=version,
        step=10,
        seen_images=160,
        ema_decay=0.998,
        base_model_hash="base",
        keys_hash="keys",
        stage="self_improve",
        parent=version - 1,
    )


def test_published_weights_read_back(store: RunStore) -> None:
    assert latest_version(store) is None
    assert list_versions(store) == []
    manifest = publish(store)
    assert (manifest.version, manifest.parent, manifest.size_bytes) == (0, -1, 7)
    assert read_weights(store, 0) == (manifest, b"weights")
    publish(store, 1)
    assert list_versions(store) == [0, 1]
    assert latest_version(store) == 1


def test_publishing_the_same_weights_again_is_harmless(store: RunStore) -> None:
    first = publish(store)
    assert asdict(publish(store)) == asdict(first)


def test_other_weights_under_a_committed_version_are_refused(store: RunStore) -> None:
    publish(store, data=b"first")
    with pytest.raises(AlreadyCommittedError, match="another trainer"):
        publish(store, data=b"second")
    assert read_weights(store, 0)[1] == b"first"


def test_weights_without_manifest_are_not_visible(store: RunStore) -> None:
    publish(store, 0)
    store.write_bytes("weights/v00000001/model.safetensors", b"unfinished")
    store.write_bytes("weights/notes/manifest.json", b"{}")
    assert list_versions(store) == [0]
    assert latest_version(store) == 0
    with pytest.raises(FileNotFoundError):
        read_weights(store, 1)


def test_what_a_dead_publisher_left_does_not_stop_the_next_one(store: RunStore) -> None:
    store.write_bytes("weights/v00000000/model.safetensors", b"unfinished")
    manifest = publish(store, data=b"whole")
    assert read_weights(store, 0) == (manifest, b"whole")


def test_a_publisher_thought_dead_that_commits_late_keeps_its_bytes(store: RunStore) -> None:
    # Two publishers have written their bytes; the one that came first to the folder commits.
    store.write_bytes("weights/v00000000/model.safetensors", b"first")
    publish(store, data=b"first")
    with pytest.raises(AlreadyCommittedError):
        publish(store, data=b"second")
    assert read_weights(store, 0)[1] == b"first"


@pytest.mark.parametrize("damage", [b"weightS", b"", b"weights and more"])
def test_damaged_weights_are_noticed(local_store: RunStore, damage: bytes) -> None:
    publish(local_store)
    local_store.write_bytes("weights/v00000000/model.safetensors", damage)
    with pytest.raises(DamagedShardError, match="good copy"):
        read_weights(local_store, 0)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"version": 0, "surprise": 1}'])
def test_a_damaged_manifest_is_noticed(local_store: RunStore, text: bytes) -> None:
    publish(local_store)
    local_store.write_bytes("weights/v00000000/manifest.json", text)
    with pytest.raises(DamagedShardError, match="not a weights manifest"):
        read_weights(local_store, 0)


def test_weights_of_another_model_are_refused(local_store: RunStore) -> None:
    manifest = publish(local_store)
    expect_fits(manifest, base_model_hash="base", keys_hash="keys")
    with pytest.raises(WeightsMismatchError, match="wanted keys_hash others, found keys"):
        expect_fits(manifest, base_model_hash="base", keys_hash="others")
    with pytest.raises(WeightsMismatchError, match="base_model_hash"):
        expect_fits(manifest, base_model_hash="other", keys_hash="keys")
