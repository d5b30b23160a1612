"""The splits that a run began with: noted at its first start, compared at each later one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from runs.begun import has_begun
from schemas.errors import AlreadyCommittedError, SourceError
from schemas.events import Event
from schemas.run_layout import SPLITS_FILE
from sources.open import open_source
from sources.pinned import Change, with_additions
from sources.traces import changes_between, record_of
from storage.records.events import EventWriter
from storage.records.splits import read_splits_record, splits_to_bytes

if TYPE_CHECKING:
    from schemas.config import RunConfig
    from storage.files.stores import RunStore
    from storage.records.splits import SplitsRecord


def expect_same_splits(store: RunStore, config: RunConfig) -> None:
    """Check that a run's source is what it was when the run began; nothing is written.

    Raises:
        SourceError: If not, unless it has only more samples and ``source.accept_additions`` is set.
    """
    began = read_splits_record(store)
    if began is not None and has_begun(store):
        _expect_accepted(store, config, changes_between(began, _record_now(config)))


def keep_splits(store: RunStore, config: RunConfig) -> None:
    """Note the splits of a run that begins; take additions that are accepted to one that goes on.

    A run that was begun before splits, or the signs of files, were noted is taken to have those of
    now.

    Raises:
        SourceError: As :func:`expect_same_splits`.
    """
    now, began = _record_now(config), read_splits_record(store)
    if began is None:
        try:
            store.put_if_absent(SPLITS_FILE, splits_to_bytes(now))
        except AlreadyCommittedError:
            keep_splits(store, config)
        return
    change = changes_between(began, now)
    if not change and began.reading is not None:
        return
    if not has_begun(store):
        store.write_bytes(SPLITS_FILE, splits_to_bytes(now))
        return
    _expect_accepted(store, config, change)
    is_grown = bool(change.added.get("train"))
    splits = with_additions(began.splits, now.splits) if is_grown else began.splits
    if is_grown or began.reading is None:
        store.write_bytes(SPLITS_FILE, splits_to_bytes(replace(now, splits=splits)))
    if is_grown:
        events = EventWriter(store, "source")
        events.emit(Event.SOURCE_CHANGED, change=change.describe())
        events.flush()


def _record_now(config: RunConfig) -> SplitsRecord:
    return record_of(open_source(config.source, config.method.tasks))


def _expect_accepted(store: RunStore, config: RunConfig, change: Change) -> None:
    is_accepting = getattr(config.source, "accept_additions", False)
    if not change or (change.is_addition and is_accepting):
        return
    what = "description" if change.fields else "lists"
    remedy = f"put the files and {what} back, or choose another run.url"
    if change.is_addition and "accept_additions" in type(config.source).model_fields:
        remedy += (
            ", or set source.accept_additions=true: then what was added to train is learnt from, "
            "and what was added to other splits is not used"
        )
    elif change.taken and not (change.moved or change.edited or change.fields):
        remedy += " (an image that cannot be read costs only its own row: it may stay)"
    raise SourceError(
        f"source: it is not what it was when {store.url} began: {change.describe()}; what was "
        f"learnt from must not be scored, and captions and images were made of what there was: "
        f"{remedy}"
    )
