"""A run with every kind of garbage, and all that its readers see."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from jobs.gc import read_content
from jobs.verify import Verification
from runs.directory import claim_run_directory
from runs.garbage import find_garbage, limits_of
from schemas.config import RunConfig
from sources.live_shards import LiveShardList
from sources.streams import SyntheticStream
from storage.files.inventory import list_files
from storage.files.stores import RunStore
from storage.manifests.table import ManifestReader
from storage.records.weights import list_versions
from tests.kit.committed_units import commit, image_unit, publish, relabel_unit

UNIT = image_unit("a")
ORPHAN = "shards/r=0000/w=00000000/0123456789abcdef.a1.tar"


def fill(run: RunStore, config: RunConfig) -> RunStore:
    """A run with every kind of garbage."""
    claim_run_directory(run, config)
    for version in range(6):
        publish(run, version)
    commit(run, UNIT, version=0, filtered=("a1",))
    commit(run, relabel_unit(UNIT, round_index=1), version=5, filtered=("a1",))
    commit(run, image_unit("b"), version=0)
    run.write_bytes(ORPHAN, b"orphan")
    for step in (1, 2, 3):
        run.write_bytes(f"checkpoints/warm_up/local/{step:08d}/state.json", b"{}")
    return run


def reading(run: RunStore) -> tuple:
    """All that readers of a run see: the labels to learn from, the units, the newest weights."""
    live = LiveShardList(run, poll_s=0)
    live.refresh()
    shards = [(each.unit_id, each.uri, each.sha256, each.num_samples) for each in live.shards]
    units = {(c.unit.unit_id, len(c.rows)) for c in ManifestReader(run).refresh()}
    stream = SyntheticStream(run, live, seed=0)
    drawn = sorted({stream.draw()[0].key for _ in range(40)})
    return sorted(shards), units, list_versions(run)[-1], drawn


def paths(run: RunStore) -> set[str]:
    return {file.path for file in list_files(run, "")}


def garbage(run: RunStore, config: RunConfig):
    limits = limits_of(config, before=datetime.now(UTC) + timedelta(minutes=5))
    return find_garbage(read_content(run), limits)


def verified(run: RunStore) -> list[str]:
    return [f"{found.path} {found.text}" for found in Verification(run).problems(workers=1)]
