"""Verify, compaction and garbage collection on S3 served by a process on this machine."""

from __future__ import annotations

import pytest

from jobs.gc import remove
from storage.files.stores import open_store
from storage.manifests.compaction import compact
from tests.kit.small_run import make_config
from tests.kit.untidy_run import ORPHAN, fill, garbage, paths, reading, verified

pytestmark = pytest.mark.slow


def test_a_run_on_s3_reads_the_same_after_it_was_tidied(s3_url, tmp_path):
    config = make_config(tmp_path, plan={"rounds": 2})
    run = fill(open_store(f"{s3_url}/{tmp_path.name}"), config)
    wanted = reading(run)
    for _ in range(2):
        compact(run, units_per_file=1)
        remove(run, garbage(run, config))
        assert reading(run) == wanted
        assert verified(run) == []
    assert ORPHAN not in paths(run)
    assert not [path for path in paths(run) if path.startswith("manifest/units")]
