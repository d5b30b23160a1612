"""Write a folder with everything that predicting needs, which ``load_run`` reads like a run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from deployment.loaded_run import load_run
from deployment.manifest import EXPORT_FILE, FORMAT, ExportManifest
from deployment.model_card import make_model_card
from deployment.model_copy import backbone_files, encoder_files
from perception.diffusion.backbone_files import CHECKPOINT, is_single_file
from pipeline.make.rows import code_version
from runs.directory import read_config
from schemas.config_file import dump_config
from schemas.errors import ConfigError, DamagedShardError
from schemas.paths import resolve_path
from schemas.run_layout import CONFIG_FILE, RESULTS_FILE, weights_dir
from schemas.weights import WEIGHTS_FILE, WEIGHTS_MANIFEST
from storage.files.stores import open_store
from storage.records.weights import WeightsWatch, read_weights

if TYPE_CHECKING:
    from deployment.loaded_run import LoadedRun
    from schemas.config import RunConfig
    from schemas.weights import Series, WeightsManifest
    from storage.files.stores import RunStore

BACKBONE_FOLDER = "backbone"
ENCODER_FOLDER = "encoder"
README_FILE = "README.md"


def export_run(
    url: str,
    out: str,
    *,
    weights: str | int = "final",
    with_backbone: bool = False,
    diffusion: str | None = None,
) -> ExportManifest:
    """Export a run's creation weights, and its creator's newest if it has any.

    The run is loaded first, so that what is written is known to load. ``export.json`` is written
    last: a folder without it was not finished.

    Args:
        url: The run, or a folder exported before.
        out: Empty or new folder, or fsspec URL.
        weights: ``final`` or the number of a published version.
        with_backbone: Copy the files of the backbone, and of the method's encoder if it reads
            one, so that the folder stands alone.
        diffusion: Where the backbone lies now, if not where the run says.

    Returns:
        What was exported.

    Raises:
        ConfigError: If the run cannot be loaded.
    """
    run = load_run(url, weights=weights, device="cpu", diffusion=diffusion)
    store = open_store(out)
    creator = _newest_of_creator(run)
    manifest = _describe(run, creator, with_backbone=with_backbone)
    if with_backbone:
        _copy_models(run, store)
    _write_weights(run.store, store, run.weights.version, "creation")
    if creator is not None:
        _write_weights(run.store, store, creator.version, "creator")
    store.write_bytes(CONFIG_FILE, dump_config(_portable_config(run)).encode())
    results = _read_results(run)
    if results is not None:
        store.write_bytes(RESULTS_FILE, (json.dumps(results, indent=1) + "\n").encode())
    card = make_model_card(manifest, run.config, results, run.weights)
    store.write_bytes(README_FILE, card.encode())
    store.write_bytes(EXPORT_FILE, manifest.to_json().encode())
    return manifest


def _newest_of_creator(run: LoadedRun) -> WeightsManifest | None:
    try:
        return WeightsWatch(run.store, series="creator").newest()
    except DamagedShardError as error:
        raise ConfigError(f"--run {run.store.url}: {error}") from error


def _describe(
    run: LoadedRun, creator: WeightsManifest | None, *, with_backbone: bool
) -> ExportManifest:
    encoder = run.config.method.encoder
    is_file = is_single_file(resolve_path(run.config.model.diffusion))
    copied = f"{BACKBONE_FOLDER}/{CHECKPOINT}" if is_file else BACKBONE_FOLDER
    return ExportManifest(
        format=FORMAT,
        source_run=run.store.url,
        tasks=run.tasks,
        image_size=run.image_size,
        weights_version=run.weights.version,
        weights_sha256=run.weights.sha256,
        backbone=run.config.model.diffusion,
        backbone_digest=run.predictor.backbone.model_id,
        backbone_folder=copied if with_backbone else None,
        encoder=encoder,
        encoder_folder=ENCODER_FOLDER if with_backbone and encoder else None,
        code_version=code_version(),
        creator_version=-1 if creator is None else creator.version,
        creator_sha256="" if creator is None else creator.sha256,
    )


def _portable_config(run: LoadedRun) -> RunConfig:
    """The run's own configuration, not bound to the device it is exported on."""
    config = read_config(run.store)
    model = config.model.model_copy(update={"diffusion": run.config.model.diffusion})
    return config.model_copy(update={"model": model, "method": run.config.method})


def _write_weights(run: RunStore, store: RunStore, version: int, series: Series) -> None:
    # The manifest goes over as it is: version, digests and time of publishing stay true.
    manifest, data = read_weights(run, version, series=series)
    folder = weights_dir(version, series)
    store.write_bytes(f"{folder}/{WEIGHTS_FILE}", data)
    store.write_bytes(f"{folder}/{WEIGHTS_MANIFEST}", manifest.to_json().encode())


def _copy_models(run: LoadedRun, store: RunStore) -> None:
    model = run.config.model
    files = backbone_files(
        resolve_path(model.diffusion),
        variant=model.variant,
        config=model.diffusion_config and resolve_path(model.diffusion_config),
    )
    folders = {BACKBONE_FOLDER: files}
    if run.config.method.encoder:
        folders[ENCODER_FOLDER] = encoder_files(resolve_path(run.config.method.encoder))
    for folder, files in folders.items():
        for name, file in files.items():
            store.put_file(file, f"{folder}/{name}")


def _read_results(run: LoadedRun) -> dict[str, Any] | None:
    if not run.store.exists(RESULTS_FILE):
        return None
    found: dict[str, Any] = json.loads(run.store.read_bytes(RESULTS_FILE))
    return found
