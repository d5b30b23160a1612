"""The whole conversion of a data set: what is asked for, the shards, the tables at the end."""

from __future__ import annotations

import json
import multiprocessing
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from schemas.digest import sha256_of
from schemas.errors import SourceError
from sources.layouts.protocol import LayoutOptions
from sources.layouts.registry import find_layout, recognise
from sources.prepare.convert import (
    ShardPlan,
    claim_folder,
    convert_shard,
    is_finished,
    plan_shards,
    read_part,
    write_table,
)
from sources.prepared import PREPARED_FILE
from sources.report.tally import SplitTally
from sources.shard_folder import MANIFEST_FILE
from storage.files.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from sources.layouts.protocol import LabelledFiles
    from sources.protocol import Split
    from sources.resize import Fit
    from storage.files.stores import RunStore

AUTO = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareRequest:
    """What a user asks for; it pickles.

    Attributes:
        layout: Name of the layout.
        root: Folder of the data set.
        out: Folder or URL that the shards go to.
        options: What else is known of the data set.
        size: Height and width; None: as stored.
        fit: How a sample is brought to ``size``.
        splits: Splits to convert; None: all.
        limit: Only the first so many samples of each split; None: all.
        per_shard: Samples in a shard.
        workers: Processes that convert.
    """

    layout: str
    root: Path
    out: str
    options: LayoutOptions = field(default_factory=LayoutOptions)
    size: tuple[int, int] | None = None
    fit: Fit = "crop"
    splits: tuple[Split, ...] | None = None
    limit: int | None = None
    per_shard: int = 64
    workers: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What came of it.

    Attributes:
        tallies: What was counted, by split.
        duplicates: Pairs of ``split/key`` in different splits whose images are identical.
        failures: Key and detail of the samples that could not be converted.
    """

    tallies: dict[Split, SplitTally]
    duplicates: tuple[tuple[str, str], ...]
    failures: tuple[tuple[str, str], ...]


def resolve_layout(name: str, root: Path) -> str:
    """Name of the layout to read a folder with.

    Args:
        name: A layout's name, or ``auto``: the one that the folder looks like.

    Raises:
        SourceError: If the folder is not there, looks like another layout, or (``auto``) like none
            or several.
    """
    if not root.is_dir():
        raise SourceError(f"--root {root}: no such folder; point it at the unpacked data set")
    looks_like = recognise(root)
    if name == AUTO:
        if len(looks_like) != 1:
            raise SourceError(
                f"--root {root}: looks like {' and '.join(looks_like) or 'no known layout'}; name "
                "one (docs/datasets.md shows the files of each)"
            )
        return looks_like[0]
    find_layout(name)
    if looks_like and name not in looks_like:
        raise SourceError(
            f"--root {root}: wanted the files of {name}, found those of {looks_like[0]}; give the "
            f"layout {looks_like[0]}, or another --root"
        )
    return name


def open_files(request: PrepareRequest) -> LabelledFiles:
    """Open the data set of a request.

    Raises:
        SourceError: If it cannot be read as a whole.
    """
    return find_layout(request.layout).open(request.root, request.options)


def plan_request(request: PrepareRequest, files: LabelledFiles) -> tuple[ShardPlan, ...]:
    """The shards of a request.

    Raises:
        SourceError: If a split is asked for that the data set does not have.
    """
    splits = files.splits()
    wanted = tuple(splits) if request.splits is None else request.splits
    missing = [split for split in wanted if split not in splits]
    if missing:
        raise SourceError(
            f"--splits {','.join(wanted)}: {request.layout} has {', '.join(splits)}; leave out "
            f"{', '.join(missing)}"
        )
    chosen = {split: splits[split] for split in wanted}
    return plan_shards(chosen, limit=request.limit, per_shard=request.per_shard)


def prepare(
    request: PrepareRequest,
    files: LabelledFiles,
    *,
    progress: Callable[[str], None] = lambda _: None,
    on_done: Callable[[int, int], None] = lambda _done, _total: None,
) -> Prepared:
    """Convert a data set; what is finished already is not made again.

    Args:
        progress: Is given a line for each shard.
        on_done: Is told how many samples are converted, and of how many.

    Raises:
        SourceError: If the folder holds another preparation, or no sample could be converted.
    """
    plans = plan_request(request, files)
    store = open_store(request.out)
    claim_folder(store, _recipe(request, files), plans)
    missing = [plan for plan in plans if not is_finished(store, plan)]
    progress(f"{len(missing)} of {len(plans)} shards to make")
    done, total = 0, sum(len(plan.keys) for plan in missing)
    for name, tally in _convert(request, files, missing, store):
        progress(f"{name}: {tally.images} samples, {tally.num_failed} failed")
        done += tally.images + tally.num_failed
        on_done(done, total)
    return _finish(request, files, plans, store)


def _recipe(request: PrepareRequest, files: LabelledFiles) -> dict[str, Any]:
    options = request.options
    return {
        "layout": request.layout,
        "tasks": list(files.tasks),
        "size": None if request.size is None else list(request.size),
        "fit": None if request.size is None else request.fit,
        "per_shard": request.per_shard,
        "normals_signs": options.normals_signs and list(options.normals_signs),
        "num_classes": files.num_classes,
        "class_map_sha256": options.class_map and sha256_of(options.class_map.read_bytes()),
    }


def _convert(
    request: PrepareRequest, files: LabelledFiles, plans: list[ShardPlan], store: RunStore
) -> Iterator[tuple[str, SplitTally]]:
    if request.workers == 1 or len(plans) < 2:
        for plan in plans:
            yield plan.name, convert_shard(files, plan, store, size=request.size, fit=request.fit)
        return
    # Fresh interpreters: open HDF5 files must not be shared by forking.
    context = multiprocessing.get_context("spawn")
    workers = min(request.workers, len(plans))
    with context.Pool(workers, initializer=_Worker.start, initargs=(request,)) as pool:
        yield from pool.imap_unordered(_Worker.convert, plans)


class _Worker:
    """The data set as one process of the pool has it open."""

    request: PrepareRequest
    files: LabelledFiles

    @classmethod
    def start(cls, request: PrepareRequest) -> None:
        cls.request, cls.files = request, open_files(request)

    @classmethod
    def convert(cls, plan: ShardPlan) -> tuple[str, SplitTally]:
        store = open_store(cls.request.out)
        size, fit = cls.request.size, cls.request.fit
        return plan.name, convert_shard(cls.files, plan, store, size=size, fit=fit)


def _finish(
    request: PrepareRequest,
    files: LabelledFiles,
    plans: tuple[ShardPlan, ...],
    store: RunStore,
) -> Prepared:
    parts = [(plan, *read_part(store, plan)) for plan in plans]
    tallies: dict[Split, SplitTally] = {}
    for plan, _, tally in parts:
        tallies.setdefault(plan.split, SplitTally()).add(tally)
    table = pa.concat_tables([rows for _, rows, _ in parts])
    rows = table.to_pylist()
    failures = tuple((row["key"], row["detail"]) for row in rows if row["status"] == "failed")
    if len(failures) == len(rows):
        raise SourceError(
            f"{request.root}: none of {len(rows)} samples could be read, the first because of: "
            f"{failures[0][1] if failures else 'there is none'}"
        )
    digest = write_table(store, MANIFEST_FILE, table)
    facts = {
        **_recipe(request, files),
        "class_names": list(files.class_names),
        "counts": {
            split: {"images": tally.images, "failed": tally.num_failed}
            for split, tally in tallies.items()
        },
        "manifest_sha256": digest,
        "shards": {row["shard"]: row["tar_sha256"] for row in rows if row["shard"]},
    }
    store.write_bytes(PREPARED_FILE, json.dumps(facts, indent=1, sort_keys=True).encode())
    return Prepared(tallies=tallies, duplicates=_duplicates(rows), failures=failures)


def _duplicates(rows: list[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    places: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        if row["image_sha256"]:
            places[row["image_sha256"]].append((row["split"], row["key"]))
    return tuple(
        ("/".join(found[0]), "/".join(other))
        for found in places.values()
        for other in found[1:]
        if other[0] != found[0][0]
    )
