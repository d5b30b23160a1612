"""What must hold of every run, whatever was done to it; read with general tools alone.

Nothing of the project's own readers: fsspec for bytes, pyarrow for Parquet, tarfile for shards.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections import Counter
from collections.abc import Iterable
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.unit import Unit

Row = dict[str, Any]
_MANIFEST = re.compile(r"manifest/(units/r=\d+|compacted)/[^./][^/]*\.parquet$")
_STATUSES = {"ok", "filtered", "failed", "collected"}


def expect_whole(url: str, plan: Iterable[Unit]) -> list[Row]:
    """Fail unless the committed set is the plan, each key is there once, digests and counts match.

    Args:
        url: The run directory, as in ``run.url``.
        plan: All units that must be there.

    Returns:
        The rows of the newest revision of each unit.
    """
    fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    units = {unit.unit_id: unit for unit in plan}
    by_unit = _newest(fs, root)
    assert by_unit.keys() == units.keys()
    for unit_id, rows in by_unit.items():
        assert len(rows) == units[unit_id].num_samples
        assert {row["status"] for row in rows} <= _STATUSES
        assert len({row["attempt"] for row in rows}) == 1
        assert len({row["creation_version"] for row in rows if row["status"] == "ok"}) <= 1
    rows = [row for rows in by_unit.values() for row in rows]
    names = Counter((row["round"], row["key"]) for row in rows)
    assert [name for name, count in names.items() if count > 1] == []
    _expect_shards(fs, root, rows)
    return rows


def _newest(fs: Any, root: str) -> dict[str, list[Row]]:
    """Rows by unit, of its newest revision; of equal ones those of the last file by name.

    A file that is no Parquet counts as absent: whatever was torn must stand elsewhere, too.
    """
    found: dict[str, tuple[int, list[Row]]] = {}
    for path in sorted(p for p in fs.find(f"{root}/manifest") if _MANIFEST.search(p)):
        in_file: dict[str, list[Row]] = {}
        try:
            table = pq.ParquetFile(io.BytesIO(fs.cat_file(path))).read()
        except (pa.ArrowException, OSError):
            continue
        for row in table.to_pylist():
            in_file.setdefault(row["unit_id"], []).append(row)
        for unit_id, rows in in_file.items():
            revision = max(row.get("revision") or 0 for row in rows)
            if revision >= found.get(unit_id, (-1, []))[0]:
                found[unit_id] = (revision, rows)
    return {unit_id: rows for unit_id, (_, rows) in found.items()}


def _expect_shards(fs: Any, root: str, rows: list[Row]) -> None:
    by_tar: dict[str, list[Row]] = {}
    for row in rows:
        if row["status"] == "ok":
            by_tar.setdefault(row["tar_uri"], []).append(row)
    for uri, kept in by_tar.items():
        data = fs.cat_file(f"{root}/{uri}")
        assert {row["tar_sha256"] for row in kept} == {hashlib.sha256(data).hexdigest()}
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            keys = {name.partition(".")[0] for name in tar.getnames()}
        assert keys == {row["key"] for row in kept}
