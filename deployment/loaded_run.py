"""A run's creation weights, ready to predict and to sample.

from deployment import load_run

run = load_run("runs/demo")
found = run.predict("photograph.jpg")
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from deployment.inputs import as_rgb, name_of
from deployment.learned_creator import with_learnt_creator
from deployment.manifest import ExportManifest, read_export_manifest
from deployment.predictor import Prediction, Predictor
from deployment.sampling import PairMaker, SamplingOptions
from perception.build import make_method, open_backbone
from perception.known_images import read_known_images
from perception.seeding import sample_seed
from perception.state_file import keys_digest, load_state_bytes
from perception.trial import expect_method_fits
from pipeline.make.build import open_captioner
from runs.checks.models import expect_models
from runs.directory import describe_image_size, find_version, read_config
from schemas.config_method import SCORING_FIELDS, plays_no_part_in_training
from schemas.errors import ConfigError, DamagedShardError, WeightsMismatchError
from schemas.paths import resolve_path
from storage.files.stores import RunStore, open_store
from storage.records.weights import expect_fits, read_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from deployment.inputs import ImageLike
    from perception.captioner import Captioner
    from perception.diffusion.backbone import DiffusionBackbone
    from perception.methods.protocol import DensePredictor
    from runs.counting import OnDone
    from schemas.config import RunConfig
    from schemas.sample import Sample, Task
    from schemas.weights import WeightsManifest


MAX_TRAINED_PIXELS = 2**22
"""Of one training image; the size is given by hand where the source is not there."""


def load_run(
    url: str | Path,
    *,
    weights: str | int = "final",
    device: str | None = None,
    diffusion: str | None = None,
    image_size: tuple[int, int] | None = None,
    overrides: Sequence[str] = (),
) -> LoadedRun:
    """Load a run directory, or a folder that ``jobs/export.py`` wrote.

    Args:
        url: Folder or fsspec URL.
        weights: ``final``: the newest published creation weights, which at the end of a run are
            its result; or the number of a published version.
        device: Replaces ``model.device`` of the run's configuration.
        diffusion: Replaces ``model.diffusion``: where the same backbone lies now.
        image_size: Height and width of the training images; asked of the run's source if None.
        overrides: ``section.field=value`` texts of fields that play no part in training
            (``SCORING_FIELDS``), such as ``method.taskdiffusion.steps=1``.

    Returns:
        The run, in evaluation mode.

    Raises:
        ConfigError: If there is no run, no such weights, or backbone and weights do not belong
            together, or an override would need other weights.
        SourceError: If the run's source is needed for the image size and cannot be opened.
    """
    store = open_store(str(url))
    export = read_export_manifest(store)
    _expect_scoring_fields(overrides)
    config = read_config(store, overrides)
    config = _adapted(config, store, export, device=device, diffusion=diffusion)
    if image_size is not None:
        _expect_size(config, image_size)
    manifest, data = _read_weights(store, find_version(store, weights))
    backbone = open_backbone(config)
    _expect_backbone(config, store, backbone, manifest)
    method = make_method(config, backbone).eval()
    _load_weights(method, data, store, manifest)
    size = image_size or (export.image_size if export else describe_image_size(config))
    predictor = Predictor(
        backbone=backbone,
        method=method,
        image_size=size,
        batch_size=config.evaluation.batch_size,
    )
    return LoadedRun(config=config, store=store, weights=manifest, predictor=predictor)


def _expect_scoring_fields(overrides: Sequence[str]) -> None:
    names = [override.partition("=")[0].strip() for override in overrides]
    if wrong := [name for name in names if not plays_no_part_in_training(name)]:
        raise ConfigError(
            f"--set {wrong[0]}: decides what is trained, and these weights are trained; wanted one "
            f"of {', '.join(SCORING_FIELDS)}"
        )


def _adapted(
    config: RunConfig,
    store: RunStore,
    export: ExportManifest | None,
    *,
    device: str | None,
    diffusion: str | None,
) -> RunConfig:
    """The configuration with the models where they lie now.

    Raises:
        ConfigError: If they lie where they cannot be read.
    """
    if "://" in store.url and export is not None and export.backbone_folder and diffusion is None:
        raise ConfigError(
            f"--run {store.url}: models are read from a disk alone; copy the folder to this "
            "machine, or name a folder with the same backbone (diffusion=…, --diffusion …)"
        )
    model: dict[str, str | None] = {}
    method = {}
    if device is not None:
        model["device"] = device
    if diffusion is not None:
        model["diffusion"] = diffusion
    elif export is not None and export.backbone_folder is not None:
        model |= {"diffusion": store.uri(export.backbone_folder), "diffusion_config": None}
    if export is not None and export.encoder_folder is not None:
        method["encoder"] = store.uri(export.encoder_folder)
    return config.model_copy(
        update={
            "model": config.model.model_copy(update=model),
            "method": config.method.model_copy(update=method),
        }
    )


def _expect_size(config: RunConfig, image_size: tuple[int, int]) -> None:
    """Check that models can read images of a size; nothing is loaded.

    Raises:
        ConfigError: If not.
    """
    height, width = image_size
    field = f"--image-size {height}x{width}"
    if not 0 < height * width <= MAX_TRAINED_PIXELS:
        raise ConfigError(f"{field}: wanted at most {MAX_TRAINED_PIXELS} pixels; correct it")
    networks = expect_models(config, with_captioner=False)
    if networks is None:
        return
    try:
        expect_method_fits(config, {p: each.config for p, each in networks.items()}, image_size)
    except ConfigError as error:
        raise ConfigError(f"{field}: {error}") from error


def _read_weights(store: RunStore, version: int) -> tuple[WeightsManifest, bytes]:
    try:
        return read_weights(store, version)
    except DamagedShardError as error:
        raise ConfigError(f"--run {store.url}: {error}") from error


def _expect_backbone(
    config: RunConfig, store: RunStore, backbone: DiffusionBackbone, manifest: WeightsManifest
) -> None:
    if manifest.base_model_hash != backbone.model_id:
        raise ConfigError(
            f"model.diffusion = {config.model.diffusion}: its digest is {backbone.model_id}, but "
            f"the weights of {store.url} were trained on {manifest.base_model_hash}; put that "
            "model back there, or name its folder (diffusion=…, --diffusion …)"
        )


def _load_weights(
    method: DensePredictor, data: bytes, store: RunStore, manifest: WeightsManifest
) -> None:
    try:
        expect_fits(
            manifest, base_model_hash=manifest.base_model_hash, keys_hash=keys_digest(method)
        )
        load_state_bytes(method, data)
    except WeightsMismatchError as error:
        raise ConfigError(
            f"--run {store.url}: its configuration describes another method than its weights "
            f"belong to: {error}"
        ) from error


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LoadedRun:
    """A run that predicts from images and makes labelled images.

    Attributes:
        config: Its configuration, with the models where they lie now.
        store: Its directory.
        weights: What the loaded creation weights say about themselves.
        predictor: Images to predictions.
    """

    config: RunConfig
    store: RunStore
    weights: WeightsManifest
    predictor: Predictor

    def __repr__(self) -> str:
        height, width = self.image_size
        return (
            f"LoadedRun({self.config.run_id}: {self.config.method.name}, {', '.join(self.tasks)}; "
            f"weights version {self.weights.version}, learnt at {height}x{width})"
        )

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What it predicts."""
        return self.predictor.method.tasks

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images it was trained on."""
        return self.predictor.image_size

    def predict(
        self,
        image: ImageLike,
        *,
        tasks: Sequence[Task] = (),
        keeps_aspect: bool = False,
        averages_mirrored: bool = False,
    ) -> Prediction:
        """Predict for one image of any size.

        Args:
            image: Path of a JPEG or PNG file, a PIL image, or a uint8 array [H, W, 3] or [H, W].
            tasks: What to return; everything if empty.
            keeps_aspect: Resize the shorter side and pad, instead of stretching the image.
            averages_mirrored: Predict the mirror image too and average.

        Returns:
            Task to array at the image's size, with ``.reliability``; see :class:`Prediction`.

        Raises:
            ConfigError: If the run has no such task.
            SampleError: If a file cannot be decoded.
            ShapeError: If an array has another shape or type.
        """
        return self.predictor.predict(
            [as_rgb(image)],
            seeds=[self.seed_of(name_of(image))],
            tasks=tasks,
            keeps_aspect=keeps_aspect,
            averages_mirrored=averages_mirrored,
        )[0]

    def sample(
        self,
        prompt: str,
        *,
        count: int = 1,
        seed: int = 0,
        options: SamplingOptions | None = None,
        on_done: OnDone | None = None,
    ) -> list[Sample]:
        """Make images from pure noise under a prompt, and label them: Φ_gen of Diff-2-in-1.

        Args:
            seed: Of everything random; the same call gives the same samples.
            options: Sampler's numbers, where they should differ from the run's.
            on_done: Is told how many samples are done, after each batch.

        Returns:
            Samples of the training images' size, with reliability and provenance in ``meta``.
        """
        return self._pairs.from_prompt(
            prompt, count=count, seed=seed, options=options, on_done=on_done
        )

    def vary(
        self,
        image: ImageLike,
        *,
        prompt: str | None = None,
        count: int = 1,
        seed: int = 0,
        options: SamplingOptions | None = None,
        on_done: OnDone | None = None,
    ) -> list[Sample]:
        """Noise an image halfway, denoise it under a prompt, and label the result.

        Args:
            image: As for :meth:`predict`; it is stretched to the training images' size.
            prompt: What the images should show; the run's captioner describes the image if None.
            options: Sampler's numbers, where they should differ from the run's.
            on_done: Is told how many samples are done, after each batch.

        Returns:
            Samples of the training images' size, with reliability and provenance in ``meta``.

        Raises:
            ConfigError: If there is no prompt and the run has no captioner that looks at images.
        """
        pixels = as_rgb(image)
        model = "user"
        if prompt is None:
            prompt, model = self.caption(pixels), self._captioner.model_id
        made = self._pairs.from_image(
            pixels,
            prompt,
            name=name_of(image),
            count=count,
            seed=seed,
            options=options,
            on_done=on_done,
        )
        return [replace(each, meta={**each.meta, "caption_model": model}) for each in made]

    def caption(self, image: ImageLike) -> str:
        """Describe an image with the run's captioner.

        Raises:
            ConfigError: If it cannot describe images that it has not seen.
        """
        if self.config.model.captioner in {"file", "source"}:
            raise ConfigError(
                f"model.captioner = {self.config.model.captioner}: knows only the source's own "
                "captions; give a prompt (prompt=…, --prompt …)"
            )
        return self._captioner.caption([as_rgb(image)])[0]

    def remark_on(self, images: Sequence[NDArray[np.uint8]]) -> str | None:
        """Say that images are unlike what the backbone knows, if it says which images it knows.

        Args:
            images: uint8 RGB [H, W, 3]; a handful is enough.
        """
        known = read_known_images(Path(resolve_path(self.config.model.diffusion)).expanduser())
        if known is None:
            return None
        number = known.count_foreign(self.predictor.backbone, images)
        return known.describe(number, len(images))

    def seed_of(self, name: str) -> int:
        """Seed of the noise that the features of an image are taken with."""
        return sample_seed(f"predict/{self.config.run.seed}", name, 0)

    @cached_property
    def _captioner(self) -> Captioner:
        return cast("Captioner", open_captioner(self.config))

    @cached_property
    def _pairs(self) -> PairMaker:
        backbone, learnt = with_learnt_creator(self.config, self.store, self.predictor.backbone)
        return PairMaker(
            predictor=self.predictor,
            backbone=backbone,
            creator=self.config.creator,
            weights=self.weights,
            creator_weights=learnt,
        )
