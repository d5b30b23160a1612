"""A store that says "present already" about our own write, as S3 may after a lost answer."""

from __future__ import annotations

from schemas.errors import AlreadyCommittedError
from storage.files.stores import RunStore
from storage.manifests.table import read_unit
from storage.records.events import EventWriter, read_events
from storage.records.weights import read_weights
from tests.kit.committed_units import publish
from tests.kit.faults.commit_worker import make_unit, write_and_commit


class ForgetfulStore(RunStore):
    """Writes, loses its own answer, asks again and is told that the object is present."""

    def put_if_absent(self, rel: str, data: bytes) -> None:
        super().put_if_absent(rel, data)
        raise AlreadyCommittedError(rel)


def forgetful(store: RunStore) -> RunStore:
    return ForgetfulStore(store.url, store.root)


def test_a_unit_that_was_committed_counts_as_won(local_store: RunStore) -> None:
    assert write_and_commit(forgetful(local_store), 0, "ours")
    assert read_unit(local_store, 0, make_unit(0).unit_id).attempt == "ours"
    assert not write_and_commit(forgetful(local_store), 0, "theirs")


def test_weights_that_were_published_stay_published(local_store: RunStore) -> None:
    manifest = publish(forgetful(local_store), 0, b"weights")
    assert read_weights(local_store, 0) == (manifest, b"weights")
    assert local_store.list_dir("weights/v00000000") == ["manifest.json", "model.safetensors"]


def test_an_event_is_logged_once(local_store: RunStore) -> None:
    writer = EventWriter(forgetful(local_store), "w")
    for number in range(2):
        writer.emit("x", number=number)
        writer.flush()
    assert [event["number"] for event in read_events(local_store)] == [0, 1]
