"""Captions: written once for each source shard, read as a whole."""

from __future__ import annotations

import pytest

from schemas.errors import DamagedShardError
from storage.files.stores import RunStore
from storage.records.captions import (
    CaptionRow,
    add_captions,
    captioned_shards,
    damaged_shards,
    read_captions,
    write_captions,
)

ROWS = [CaptionRow("a_0", "a room", "blip2"), CaptionRow("b_0", "", "blip2")]


def test_captions_read_back_by_shard_and_key(store: RunStore) -> None:
    assert read_captions(store) == {}
    assert write_captions(store, "train-000000", ROWS)
    assert write_captions(store, "train-000001", ROWS[:1])
    assert captioned_shards(store) == {"train-000000", "train-000001"}
    assert read_captions(store) == {
        ("train-000000", "a_0"): ROWS[0],
        ("train-000000", "b_0"): ROWS[1],
        ("train-000001", "a_0"): ROWS[0],
    }


def test_the_first_captions_stand(store: RunStore) -> None:
    assert write_captions(store, "train-000000", ROWS)
    assert not write_captions(store, "train-000000", [])
    assert len(read_captions(store)) == 2


def test_a_damaged_file_is_noticed(local_store: RunStore) -> None:
    write_captions(local_store, "train-000000", ROWS)
    local_store.write_bytes("captions/train-000000.parquet", b"PAR1")
    with pytest.raises(DamagedShardError, match="makes the captions again"):
        read_captions(local_store)
    assert damaged_shards(local_store) == {"train-000000"}


def test_captions_that_cannot_be_read_are_replaced_by_a_later_file_with_all_of_them(
    local_store: RunStore,
) -> None:
    assert write_captions(local_store, "train-000000", ROWS)
    local_store.write_bytes("captions/train-000000.parquet", b"PAR1")
    # A part of them is not enough: the others would be missing without a word.
    add_captions(local_store, "train-000000", ROWS[:1])
    assert damaged_shards(local_store) == {"train-000000"}
    assert write_captions(local_store, "train-000000", ROWS)
    assert damaged_shards(local_store) == set()
    assert len(read_captions(local_store)) == 2
    assert not write_captions(local_store, "train-000000", [])


@pytest.mark.parametrize("name", ["", "a/b", ".a"])
def test_a_shards_name_that_would_change_the_path_is_refused(
    local_store: RunStore, name: str
) -> None:
    with pytest.raises(ValueError, match="source shard"):
        write_captions(local_store, name, ROWS)
