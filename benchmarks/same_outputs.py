"""Digest what a small local run and a small Ray run leave: equal code gives equal digests.

    python -m benchmarks.same_outputs [--checkout FOLDER] [--keep FOLDER] [--only local|ray]

A refactoring shows with it that nothing changed: run it on a checkout from before and on one from
after, with the same Python environment on the same machine. Both runs are arranged so that their
result does not depend on timing: generation ends before learning begins.

What counts: every manifest row but for times, hosts, sizes of tars and names that contain a unit's
id (units are numbered in the order of their content); the pixels, labels and confidence of every
sample; all published and final weights, tensor by tensor; all scores.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from PIL import Image
from safetensors.numpy import load as load_safetensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

HERE = Path(__file__).resolve().parents[1]

SETTINGS = (
    "source.num_labelled=8",
    "source.num_validation=4",
    "source.num_test=8",
    "method.tasks=[normals, depth, semseg]",
    "creator.num_steps=4",
    "plan.variants=2",
    "plan.unit_size=4",
    "training.warm_up.steps=8",
    "training.self_improve.steps=8",
    "training.publish_every_images=64",
    "training.min_synthetic_samples=16",
    "training.starved_after_s=60",
    "labelling.max_pixel_error_deg=180",
    "screening.max_expected_error_deg=180",
    "evaluation.batch_size=8",
)
PASSING_COLUMNS = {
    *("attempt", "run_id", "tar_uri", "tar_offset", "tar_size", "tar_sha256", "schema_version"),
    *("gen_seconds", "device", "node_id", "created_at", "code_version", "source_uri"),
}
"""Columns of the manifest that tell of a machine or a moment."""

ID_COLUMNS = ("unit_id", "parent_unit_id", "key")
PASSING_RESULTS = {"seconds"}


def main(arguments: Sequence[str]) -> None:
    """Make both runs and print their digests."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkout", type=Path, default=HERE, help="the code that runs")
    parser.add_argument("--keep", type=Path, help="folder for the runs; else they are removed")
    parser.add_argument("--only", choices=("local", "ray"), help="one of the two")
    parsed = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = parsed.keep or Path(scratch)
        for name, make in (("local", make_local_run), ("ray", make_ray_run)):
            if parsed.only in (None, name):
                run = folder / name
                make(parsed.checkout.resolve(), run)
                for part, digest in digests(run).items():
                    print(f"{name} {part}: {digest}", flush=True)


def make_local_run(checkout: Path, run: Path) -> None:
    """One process a command: warm up, round 0, learn, label again with the last version, score."""
    config = config_arguments(run, "plan.rounds=2")
    command(checkout, "train", *config, "--local", "--stage", "warm_up")
    command(checkout, "generate", *config, "--local", "--rounds", "1")
    command(checkout, "train", *config, "--local", "--stage", "self_improve")
    command(checkout, "generate", *config, "--local")
    scores = ("--run", str(run), "--weights", "all", "--out", str(run / "scores.json"))
    command(checkout, "evaluate", *scores)


def make_ray_run(checkout: Path, run: Path) -> None:
    """The whole loop on Ray; the control keeps training busy while the one round is made."""
    command(checkout, "self_improve", *config_arguments(run, "plan.rounds=1"))


def config_arguments(run: Path, *settings: str) -> list[str]:
    """Options of a job for a small run of the demo's configuration."""
    found = ["--config", "configs/rooms_demo.yaml"]
    for setting in (f"run.url={run}", *SETTINGS, *settings):
        found += ["--set", setting]
    return found


def command(checkout: Path, job: str, *arguments: str) -> None:
    """Run a job of a checkout; its output is shown only if it fails.

    Raises:
        SystemExit: If it fails.
    """
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    ended = subprocess.run(
        [sys.executable, f"jobs/{job}.py", *arguments],
        cwd=checkout,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if ended.returncode:
        raise SystemExit(f"jobs/{job}.py ended with {ended.returncode}:\n{ended.stdout[-4000:]}")


def digests(run: Path) -> dict[str, str]:
    """Digest of each part of a run directory, sixteen hexadecimal digits."""
    rows = manifest_rows(run)
    return {
        "rows": digest_of(comparable(rows)),
        "samples": digest_of(samples_of(run, rows)),
        "weights": digest_of(weights_of(run)),
        "scores": digest_of(scores_of(run)),
    }


def manifest_rows(run: Path) -> list[dict[str, Any]]:
    """All rows of a run, in an order that no id decides."""
    files = sorted((run / "manifest/units").rglob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    order = ("round", "source_shard", "source_key", "variant")
    return sorted(rows, key=lambda row: tuple(row[name] for name in order))


def comparable(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what tells of a machine or a moment; units are numbered as they appear."""
    numbers: dict[str, str] = {}
    for row in rows:
        numbers.setdefault(row["unit_id"], f"unit-{len(numbers)}")
    found = []
    for row in rows:
        kept = {name: value for name, value in row.items() if name not in PASSING_COLUMNS}
        for name in ID_COLUMNS:
            head, separator, tail = kept[name].partition("_")
            kept[name] = numbers.get(head, head) + separator + tail
        found.append(kept)
    return found


def samples_of(run: Path, rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Decoded members of every kept sample, but for the json one, whose facts are in the rows."""
    for row in rows:
        if row["status"] != "ok":
            continue
        with tarfile.open(run / row["tar_uri"]) as shard:
            for member in shard.getmembers():
                key, _, name = member.name.partition(".")
                if key == row["key"] and name != "json":
                    stream = shard.extractfile(member)
                    assert stream is not None
                    image = Image.open(io.BytesIO(stream.read()))
                    yield f"{name} {image.mode} {image.size} {_sha256(image.tobytes())}"


def weights_of(run: Path) -> Iterable[str]:
    """Every tensor of every published version and of every stage's end."""
    files = [*(run / "weights").rglob("*.safetensors")]
    files += (run / "checkpoints").glob("*/final/*.safetensors")
    for file in sorted(files):
        for name, tensor in sorted(load_safetensors(file.read_bytes()).items()):
            place = file.relative_to(run)
            yield f"{place} {name} {tensor.dtype} {tensor.shape} {_sha256(tensor.tobytes())}"


def scores_of(run: Path) -> dict[str, Any]:
    """What was scored."""
    file = run / ("scores.json" if (run / "scores.json").exists() else "results.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return {name: value for name, value in found.items() if name not in PASSING_RESULTS}


def digest_of(content: object) -> str:
    """Digest of anything that JSON can hold."""
    found = content if isinstance(content, dict | list) else list(content)  # type: ignore[call-overload]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    main(sys.argv[1:])
