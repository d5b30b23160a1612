"""A source in the form of the shipped rooms, of samples that a test chooses."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.sample import Sample
from storage.samples.codecs import encode_sample
from storage.samples.shards import pack_tar


def write_rooms(
    folder: Path, shards: Mapping[str, Sequence[Sample]], *, broken: Collection[str] = ()
) -> Path:
    """Write shards, whose names begin with their split; the images of ``broken`` keys are none."""
    folder.mkdir(parents=True)
    records = []
    for name, samples in shards.items():
        members = {sample.key: encode_sample(sample) for sample in samples}
        for key in members.keys() & set(broken):
            members[key]["image.png"] = b"not an image"
        packed = pack_tar(members.items())
        (folder / f"{name}.tar").write_bytes(packed.data)
        records += [
            {
                "split": name.partition("-")[0],
                "shard": f"{name}.tar",
                "key": sample.key,
                "caption": sample.caption,
                "tar_sha256": packed.sha256,
                "width": sample.image.shape[1],
                "height": sample.image.shape[0],
            }
            for sample in samples
        ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), buffer)
    (folder / "manifest.parquet").write_bytes(buffer.getvalue())
    return folder


def rooms_section(folder: Path, *, train: int, validation: int = 0, test: int = 0) -> dict:
    """The configuration's section of such a source."""
    counts = {"num_labelled": train, "num_validation": validation, "num_test": test}
    return {"kind": "rooms", "root": str(folder), **counts}
