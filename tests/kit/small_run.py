"""A complete small run: a source of a few 32x32 images, tiny random models, published weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from perception.build import make_method
from perception.diffusion.backbone import DiffusionBackbone
from perception.state_file import keys_digest, state_to_bytes
from pipeline.loop.control import GenerationControl
from pipeline.loop.plan import make_plan
from pipeline.make.caption import SourceCaptions, caption_source
from pipeline.make.generator import Generator
from schemas.config import RunConfig
from schemas.config_file import parse_config
from schemas.digest import sha256_of
from schemas.sample import Sample
from sources.open import open_run_source
from storage.files.stores import RunStore, open_store
from storage.manifests.table import ManifestReader
from storage.manifests.unit_outcome import UnitCommit
from storage.records.weights import publish_weights
from storage.samples.shards import load_shard, read_tar
from tests.kit.rooms_source import rooms_section, write_rooms
from tests.kit.tiny_models import IMAGE_SIZE_PX, tiny_backbone, tiny_diffusion_folder

SHARDS = ("train-000000", "train-000001")
KEYS_PER_SHARD = 4
BROKEN_KEY = "train-000001-02"


def write_source(folder: Path, *, with_broken_image: bool = False) -> Path:
    shards = {
        shard: [
            make_sample(f"{shard}-{i:02d}", seed=10 * number + i) for i in range(KEYS_PER_SHARD)
        ]
        for number, shard in enumerate(SHARDS)
    }
    return write_rooms(folder, shards, broken={BROKEN_KEY} if with_broken_image else ())


def make_sample(key: str, *, seed: int) -> Sample:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = coarse.repeat(IMAGE_SIZE_PX // 4, axis=0).repeat(IMAGE_SIZE_PX // 4, axis=1)
    normals = np.zeros((IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), dtype=np.float32)
    normals[..., 2] = 1
    return Sample(key=key, image=image, labels={"normals": normals}, caption=f"a room {key}")


def make_config(tmp_path: Path, name: str = "run", **changes: dict) -> RunConfig:
    source = tmp_path / "source"
    if not source.exists():
        write_source(source)
    tree = {
        "run": {"url": str(tmp_path / name)},
        "model": {
            "diffusion": str(tiny_diffusion_folder()),
            "captioner": "source",
            "device": "cpu",
        },
        "source": rooms_section(source, train=len(SHARDS) * KEYS_PER_SHARD),
        "creator": {"num_steps": 2, "batch_size": 4},
        "plan": {"rounds": 1, "unit_size": 2},
        "screening": {"max_expected_error_deg": 180.0, "min_pixel_std": 0.0},
        "training": {
            "warm_up": {"steps": 4, "batch_size": 4},
            "self_improve": {"steps": 6, "batch_size": 4},
        },
        "generation": {"max_failed_fraction": 1.0},
    }
    for section, values in changes.items():
        tree.setdefault(section, {}).update(values)
    return parse_config(tree, origin="test")


def publish(
    config: RunConfig,
    version: int,
    *,
    seen_images: int = 0,
    shift: float = 0.0,
    backbone: DiffusionBackbone | None = None,
) -> None:
    """Publish the initial weights as a version; ``shift`` is added to every parameter."""
    backbone = backbone or tiny_backbone()
    method = make_method(config, backbone)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(shift)
    publish_weights(
        open_store(config.run.url),
        state_to_bytes(method),
        version=version,
        step=version * 10,
        seen_images=seen_images,
        ema_decay=0.998,
        base_model_hash=backbone.model_id,
        keys_hash=keys_digest(method),
        stage="warm_up" if version == 0 else "self_improve",
        parent=version - 1,
    )


def prepare(config: RunConfig) -> RunStore:
    """Caption the source and publish version 0."""
    store = open_store(config.run.url)
    caption_source(store, open_run_source(config), SourceCaptions())
    publish(config, 0)
    return store


def make_generator(config: RunConfig, **options) -> Generator:
    backbone = tiny_backbone()
    return Generator(
        config,
        store=open_store(config.run.url),
        source=open_run_source(config),
        backbone=backbone,
        method=make_method(config, backbone),
        **options,
    )


def make_control(config: RunConfig, **options) -> GenerationControl:
    plan = make_plan(config, open_run_source(config).shards("train"))
    return GenerationControl(config, open_store(config.run.url), plan, **options)


def all_commits(config: RunConfig) -> list[UnitCommit]:
    return ManifestReader(open_store(config.run.url)).refresh()


def all_rows(config: RunConfig):
    return [row for commit in all_commits(config) for row in commit.rows]


def stored_members(config: RunConfig) -> dict[tuple[int, str], dict[str, bytes]]:
    """Members of all committed samples by (round, key); digests are checked on the way."""
    store = open_store(config.run.url)
    found = {}
    for commit in all_commits(config):
        tars = {(row.tar_uri, row.tar_sha256) for row in commit.rows if row.status == "ok"}
        for uri, sha256 in tars:
            for key, members in read_tar(load_shard(store, uri, sha256)):
                assert (commit.unit.round, key) not in found
                found[commit.unit.round, key] = members
    return found


def digests(config: RunConfig, *, leave_out: tuple[str, ...] = ()) -> dict[tuple, str]:
    """SHA-256 of every stored member by (round, key, member)."""
    return {
        (*where, name): sha256_of(data)
        for where, members in stored_members(config).items()
        for name, data in members.items()
        if name not in leave_out
    }
