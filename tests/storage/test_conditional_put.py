"""What object stores answer to a conditional put, and what it means."""

from __future__ import annotations

import pytest

from storage.files import patience, stores
from storage.files.patience import Patience

STATUS = {"ConditionalRequestConflict": 409, "PreconditionFailed": 412, "AccessDenied": 403}


class AnswerError(Exception):
    """As botocore raises it."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.response = {
            "Error": {"Code": code},
            "ResponseMetadata": {"HTTPStatusCode": STATUS[code]},
        }


class AnsweringStore:
    """Answers conditional puts from a list: an S3 error code, or "" for success."""

    protocol = ("s3", "s3a")

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.stored: list[tuple[str, bytes]] = []

    def pipe_file(self, path: str, data: bytes, *, mode: str) -> None:
        assert mode == "create"
        code = self.answers.pop(0)
        if code:
            # s3fs: an OSError whose cause is botocore's error
            raise OSError(22, code) from AnswerError(code)
        self.stored.append((path, data))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE", Patience(tries=3, first_wait_s=0.0))


def create(store: AnsweringStore) -> None:
    stores._create(store, "b/x", b"1", "create s3://b/x")


def test_a_refused_precondition_means_present() -> None:
    with pytest.raises(FileExistsError):
        create(AnsweringStore("PreconditionFailed"))


def test_a_conflict_with_a_put_under_way_is_tried_again() -> None:
    busy = "ConditionalRequestConflict"
    store = AnsweringStore(busy, busy, "")
    create(store)
    assert store.stored == [("b/x", b"1")]
    with pytest.raises(FileExistsError):
        create(AnsweringStore(busy, "PreconditionFailed"))


def test_tries_are_bounded() -> None:
    store = AnsweringStore(*["ConditionalRequestConflict"] * 9)
    with pytest.raises(OSError, match=r"create s3://b/x.*Conflict after 3 tries.*resumes"):
        create(store)
    assert len(store.answers) == 6


def test_a_refusal_is_final_and_names_the_credentials() -> None:
    store = AnsweringStore("AccessDenied", "")
    with pytest.raises(PermissionError, match=r"AccessDenied after 1 try; check the credentials"):
        create(store)
    assert store.stored == []
