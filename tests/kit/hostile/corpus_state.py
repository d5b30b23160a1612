"""Hostile state of a run: results, wishes, events, checkpoints; with the outcome of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runs.results import read_results
from runs.state import EventTail, run_state
from runs.status import overview, read_status
from schemas.errors import ConfigError, DamagedShardError
from schemas.events import Event
from schemas.run_layout import CONFIG_FILE, EVENTS_DIR, RESULTS_FILE, STEERING_FILE, epoch_path
from storage.files.stores import RunStore, open_store
from storage.manifests.table import ManifestReader
from storage.records.events import read_events
from storage.records.run_lock import drivers, take_run
from storage.records.steering import Steering, read_steering
from tests.kit.hostile.outcomes import PICKLE, Accepted, Item, Refused
from trainers.checkpoint import CHECKPOINT_FILES, STATE_FILE, StoredCheckpoints
from trainers.final import final_dir, read_final

GARBAGE: dict[str, bytes] = {
    "no bytes": b"",
    "zeros": bytes(100),
    "not UTF-8": b"\xff\xfe{}",
    "half an object": b'{"a": ',
    "a list": b"[1, 2]",
    "a number": b"5",
    "nothing": b"null",
    "not a number": b'{"warm_up": NaN}',
    "brackets": b"[" * 100_000,
    "a number of 10 000 digits": b"9" * 10_000,
    "a pickle": PICKLE,
}


def garbage_of(
    what: str, path: str, read: Callable[[RunStore], Any], outcome: Any, *leave_out: str
) -> list[Item]:
    """One item for each kind of garbage in a file."""

    def item(name: str, content: bytes) -> Item:
        def reading(folder: Path) -> Any:
            store = open_store(str(folder))
            store.write_bytes(path, content)
            return read(store)

        return Item(f"{what}: {name}", reading, outcome)

    return [item(name, content) for name, content in GARBAGE.items() if name not in leave_out]


def kept(what: str, path: str, content: Any, read: Callable[[RunStore], Any], check: Any) -> Item:
    def reading(folder: Path) -> Any:
        store = open_store(str(folder))
        store.write_bytes(path, json.dumps(content).encode())
        return read(store)

    return Item(what, reading, Accepted(check))


RESULTS = [
    *garbage_of(
        "results", RESULTS_FILE, read_results, Refused(DamagedShardError, "wanted the scores")
    ),
    kept(
        "results: plain",
        RESULTS_FILE,
        {"warm_up": {"normals": {"mean_deg": 1}}},
        read_results,
        lambda found: found["warm_up"],
    ),
]

WISHES = [
    *garbage_of("steering", STEERING_FILE, read_steering, Refused(ConfigError, "jobs/steer.py"))[
        :-4
    ],
    kept(
        "steering: unknown fields",
        STEERING_FILE,
        {"eval": "os.abort()"},
        read_steering,
        lambda found: found == Steering(),
    ),
]
for number in (0, -1, 1.5, True, "9", [2], 10**40):
    WISHES += [
        Item(
            f"steering: {number!r:.20} generators",
            lambda folder, number=number: _steer(folder, {"num_generators": number}),
            Refused(ConfigError, "jobs/steer.py"),
        )
    ]


def _steer(folder: Path, content: Any) -> Any:
    store = open_store(str(folder))
    store.write_bytes(STEERING_FILE, json.dumps(content).encode())
    return read_steering(store)


EVENT = {"time": "2026-01-01T00:00:00.000000+00:00", "writer": "w", "event": "trainer_progress"}
ODD_EVENTS: list[Any] = [
    {**EVENT, "time": 5},
    {**EVENT, "time": "yesterday"},
    {**EVENT, "time": "2026-01-01T00:00:00"},
    {**EVENT, "event": None},
    {**EVENT, "writer": [1]},
    {"time": EVENT["time"]},
    [EVENT],
    "text",
]
SPARSE_EVENTS: list[Any] = [
    {**EVENT, "epoch": "x"},
    {**EVENT, "event": "generation_progress", "state": 5, "reason": {"a": 1}},
    {**EVENT, "event": "starved", "waited_s": "long"},
    {**EVENT, "event": "run_failed"},
    {**EVENT, "stage": "\x1b[2J[bold]", "step": None, "steps": "x", "staleness_mean": "y"},
]


def _log(folder: Path, data: bytes) -> RunStore:
    store = open_store(str(folder))
    store.write_bytes(f"{EVENTS_DIR}/w.000001.jsonl", data)
    return store


def _lines(*events: Any) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def _tail(folder: Path) -> Any:
    store = open_store(str(folder))
    tail = EventTail(store, Event.TRAINER_PROGRESS)
    garbage = b"\n".join([*GARBAGE.values(), _lines(*ODD_EVENTS)])
    _log(folder, garbage + b"\n" + _lines({**EVENT, "step": 7}))
    return tail.newest()


def _states(folder: Path) -> Any:
    """The state after each event that lacks what it should tell."""
    store = _log(folder, _lines(*SPARSE_EVENTS))
    events = list(read_events(store))
    return [run_state(events[: n + 1], has_results=False).name for n in range(len(events))]


def _status(folder: Path) -> Any:
    """The table of a run whose log lacks fields and whose files are garbage."""
    store = _log(folder, b"\n".join(GARBAGE.values()) + b"\n" + _lines(*ODD_EVENTS, *SPARSE_EVENTS))
    store.write_bytes(CONFIG_FILE, b"\xff")
    store.write_bytes("manifest/units/r=0000/0123456789abcdef.parquet", PICKLE)
    store.write_bytes("weights/v00000003/manifest.json", PICKLE)
    return overview(read_status(store))


EVENTS = [
    Item(
        "events: garbage between good ones",
        lambda folder: list(
            read_events(
                _log(
                    folder,
                    b"\n".join([_lines(EVENT), *GARBAGE.values(), _lines({**EVENT, "step": 2})]),
                )
            )
        ),
        Accepted(lambda found: len(found) == 2),
    ),
    Item(
        "events: without what every event has",
        lambda folder: list(read_events(_log(folder, _lines(*ODD_EVENTS)))),
        Accepted(lambda found: found == []),
    ),
    Item(
        "events: one line of 50 MB",
        lambda folder: list(read_events(_log(folder, b"x" * (50 << 20) + b"\n" + _lines(EVENT)))),
        Accepted(lambda found: len(found) == 1),
    ),
    Item("events: garbage while they are followed", _tail, Accepted(lambda e: e["step"] == 7)),
    Item("events: without the fields of their kind", _states, Accepted(lambda found: found)),
    Item("status: of a run of garbage", _status, Accepted(lambda table: table.row_count > 4)),
]


def _everywhere(folder: Path) -> Any:
    store = open_store(str(folder))
    for path in ("a.parquet", "r=0000", "r=0000/x.parquet", "r=0000/0123456789abcdef.parquet"):
        if path != "r=0000":
            store.write_bytes(f"manifest/units/{path}", PICKLE)
    store.write_bytes("manifest/compacted/part-000000.parquet", PICKLE)
    return ManifestReader(store).refresh()


def _checkpoint(folder: Path, content: bytes) -> Any:
    store = open_store(str(folder))
    for name in CHECKPOINT_FILES:
        store.write_bytes(f"checkpoints/warm_up/local/00000002/{name}", PICKLE)
    store.write_bytes(f"checkpoints/warm_up/local/00000002/{STATE_FILE}", content)
    return StoredCheckpoints(store, "warm_up").latest()


CHECKPOINTS = [
    *(
        Item(
            f"checkpoint: {name}",
            lambda folder, content=content: _checkpoint(folder, content),
            Accepted(lambda found: found is None),
        )
        for name, content in GARBAGE.items()
    ),
    *garbage_of(
        "end of a stage",
        f"{final_dir('warm_up')}/final.json",
        lambda store: read_final(store, "warm_up"),
        Refused(DamagedShardError, "wanted the end of a stage"),
    ),
    Item(
        "run directory: a pickle in every place",
        _everywhere,
        Accepted(lambda found: found == []),
    ),
]


def _take_over(store: RunStore) -> Any:
    """A driver that comes to a run whose lock is garbage."""
    taken = take_run(store, job="generate", roles=("generate",))
    return taken.epoch, len(drivers(store))


LOCKS = garbage_of(
    "lock",
    epoch_path(1),
    _take_over,
    Accepted(lambda found: found[0] == 2),
)

STATE = [*RESULTS, *WISHES, *EVENTS, *CHECKPOINTS, *LOCKS]
