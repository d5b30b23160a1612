"""What a run has made, in SQL: python examples/read_manifest_with_duckdb.py RUN."""

from __future__ import annotations

import sys

import duckdb

from storage.files.stores import open_store
from storage.samples.codecs import decode_sample
from storage.samples.shards import read_member_range

# Units lie in files of their own or together, and the greatest revision of each counts.
SAMPLES = """
create table samples as select * from read_parquet($manifests, union_by_name = true)
qualify row_number() over (
    partition by round, key order by coalesce(revision, 0) desc, created_at) = 1
"""
COUNTS = """
select creation_version, status, count(*) as samples from samples group by all order by all
"""
NEWEST = """
select key, caption, tar_uri, tar_offset, tar_size
from samples where status = 'ok' order by creation_version desc, key limit 1
"""


def main(folder: str) -> None:
    """Count samples by version and status; fetch one out of the middle of its shard."""
    with duckdb.connect() as connection:
        connection.execute(SAMPLES, {"manifests": f"{folder}/manifest/**/*.parquet"})
        print(connection.execute(COUNTS).fetch_df().to_string(index=False))
        newest = connection.execute(NEWEST).fetchone()
    if newest is not None:
        key, caption, tar, offset, size = newest
        members = read_member_range(open_store(folder), tar, offset=offset, size=size)
        sample = decode_sample(*members)
        said = repr(caption) if caption else "(no caption)"
        print(f"{key}: {sample.image.shape}, labels {list(sample.labels)}, {said}")


if __name__ == "__main__":
    main(*sys.argv[1:])
