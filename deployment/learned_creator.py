"""The creator of a run that has learnt, as it makes images after the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perception.build import make_creator_network
from perception.state_file import keys_digest, load_state_bytes
from schemas.errors import ConfigError, DamagedShardError, WeightsMismatchError
from storage.records.weights import WeightsWatch, expect_fits

if TYPE_CHECKING:
    from perception.diffusion.backbone import DiffusionBackbone
    from schemas.config import RunConfig
    from schemas.weights import WeightsManifest
    from storage.files.stores import RunStore


def with_learnt_creator(
    config: RunConfig, store: RunStore, backbone: DiffusionBackbone
) -> tuple[DiffusionBackbone, WeightsManifest | None]:
    """Give what a run makes images with, and the creator's weights in it; None where none learn.

    A pair model plays no part: images are made by the frozen backbone.

    Args:
        backbone: The run's frozen one.

    Raises:
        ConfigError: If the creator has not learnt yet, or its weights are damaged or do not fit.
    """
    if config.training.creator is None or config.creator.makes_maps:
        return backbone, None
    try:
        newest = WeightsWatch(store, series="creator").newer_than(None)
    except DamagedShardError as error:
        raise ConfigError(f"--run {store.url}: {error}") from error
    if newest is None:
        raise ConfigError(
            f"--run {store.url}: its creator has no weights yet; they appear at the end of the "
            "stage creator (jobs/train.py --stage creator, or jobs/self_improve.py)"
        )
    manifest, data = newest
    network = make_creator_network(config, backbone).eval().requires_grad_(requires_grad=False)
    try:
        keys_hash = keys_digest(network)
        expect_fits(manifest, base_model_hash=backbone.model_id, keys_hash=keys_hash)
        load_state_bytes(network, data)
    except WeightsMismatchError as error:
        raise ConfigError(
            f"--run {store.url}: its configuration describes another creator than the weights "
            f"belong to: {error}"
        ) from error
    return network.in_place_of(backbone), manifest
