"""The creator of a run that has learnt, as it makes images after the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perception.build import make_creator_network
from perception.state_file import keys_digest, load_state_bytes
from schemas.errors import ConfigError, DamagedShardError, WeightsMismatchError
from storage.records.weights import expect_fits, list_versions, read_weights

if TYPE_CHECKING:
    from perception.diffusion.backbone import DiffusionBackbone
    from schemas.config import RunConfig
    from schemas.weights import WeightsManifest
    from storage.files.stores import RunStore


def read_creator_weights(
    config: RunConfig, store: RunStore
) -> tuple[WeightsManifest, bytes] | None:
    """Read the newest version of a run's creator; None if its creator does not learn, or has not.

    Raises:
        ConfigError: If the version is damaged.
    """
    if config.training.creator is None:
        return None
    versions = list_versions(store, series="creator")
    try:
        return read_weights(store, versions[-1], series="creator") if versions else None
    except DamagedShardError as error:
        raise ConfigError(f"--run {store.url}: {error}") from error


def with_learnt_creator(
    config: RunConfig, store: RunStore, backbone: DiffusionBackbone
) -> tuple[DiffusionBackbone, WeightsManifest | None]:
    """Give what a run makes images with, and the creator's weights in it; None where none learn.

    Args:
        backbone: The run's frozen one.

    Raises:
        ConfigError: If the creator has not learnt yet, or its weights do not fit the run.
    """
    if config.training.creator is None:
        return backbone, None
    found = read_creator_weights(config, store)
    if found is None:
        raise ConfigError(
            f"--run {store.url}: its creator has no weights yet; they appear at the end of the "
            "stage creator (jobs/train.py --stage creator, or jobs/self_improve.py)"
        )
    manifest, data = found
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
