"""What a run has made, in SQL: python examples/read_manifest_with_duckdb.py RUN."""

from __future__ import annotations

import sys

import duckdb

from storage.codecs import decode_sample
from storage.filesystem import open_store
from storage.shards import read_member_range

COUNTS = """
select creation_version, status, count(*) as samples
from read_parquet($manifests) group by all order by all
"""
NEWEST = """
select key, caption, tar_uri, tar_offset, tar_size
from read_parquet($manifests) where status = 'ok' order by creation_version desc, key limit 1
"""


def main(folder: str) -> None:
    """Count samples by version and status; fetch one out of the middle of its shard."""
    manifests = {"manifests": f"{folder}/manifest/units/**/*.parquet"}
    with duckdb.connect() as connection:
        print(connection.execute(COUNTS, manifests).fetch_df().to_string(index=False))
        newest = connection.execute(NEWEST, manifests).fetchone()
    if newest is not None:
        key, caption, tar, offset, size = newest
        members = read_member_range(open_store(folder), tar, offset=offset, size=size)
        sample = decode_sample(*members)
        print(f"{key}: {sample.image.shape}, labels {list(sample.labels)}, {caption!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
