"""Networks that make an image and its maps together, as predictors and as creators of pairs."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from perception.diffusion.features import FeaturePyramid
from perception.diffusion.latents import decode_images, encode_moments, latent_shape
from perception.methods.protocol import (
    DensePredictor,
    Labels,
    PixelWeights,
    Predictions,
    Pyramid,
    evaluating,
)
from perception.pairs.aggregated import aggregated_loss
from perception.pairs.known import KnownPart, expect_labelled, known_from
from perception.pairs.maps import MapCodec
from perception.pairs.pictures import pool_validity
from perception.pairs.sampler import sample_pairs
from perception.pairs.spread import mean_of_samples
from perception.seeding import draw_seeds, sample_generator
from schemas.errors import ConfigError
from schemas.sample import TASK_KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from perception.diffusion.backbone import DiffusionBackbone
    from perception.diffusion.latents import LatentMoments
    from perception.methods.spec import MethodSpec
    from perception.pairs.network import Known, PairLatents, PairNetwork
    from perception.seeding import Generators
    from schemas.config import CreatorSection
    from schemas.sample import Task

_UNIFORM_ERROR_DEG = 90.0
"""Mean angle of random directions to any direction."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedLabels:
    """Labels of a batch as the networks read them.

    Attributes:
        labels: What was encoded; None: nothing is known.
        maps: Task to scaled latents [B, C, h, w].
        validity: Task to the share of labelled pixels in each latent pixel, [B, 1, h, w].
    """

    labels: Labels | None
    maps: dict[Task, Tensor]
    validity: dict[Task, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PairOutputs:
    """What a training pass found.

    Attributes:
        found: Prediction of the image (noise or velocity), and what the network says of each map.
        image_target: What the image's should be.
        noise: What was added: the image's, and the map's where it has its own.
        timestep: int64 [B].
        encoded: The labels that went into the pass.
    """

    found: PairLatents
    image_target: Tensor
    noise: PairLatents
    timestep: Tensor
    encoded: EncodedLabels


def backbone_of(spec: MethodSpec) -> DiffusionBackbone:
    """Return the frozen model whose networks a pair model copies.

    Raises:
        ConfigError: If the spec has none.
    """
    if spec.backbone is None:
        raise ConfigError(
            f"method.name = {spec.choices.name}: wanted the frozen backbone, found none; make the "
            "spec with it"
        )
    return spec.backbone


class PairModel(DensePredictor):
    """A pair network and a codec of its maps: predicts by making the maps of a known image.

    An observation is one level with two entries: scaled latents of the images [B, C, h, w] and
    embedded captions [B, S, D]. An image without a label of any task teaches nothing.

    Args:
        network: What makes pairs; a module.
        spec: The run's choices, and the backbone, which is neither trained nor copied.
        map_weight: Factor of the maps' loss relative to the image's.
    """

    predicts_from_noise = True

    def __init__(self, network: PairNetwork, spec: MethodSpec, *, map_weight: float) -> None:
        super().__init__(spec.choices)
        # In a tuple, a backbone's networks are no part of parameters and state.
        self._hidden = (backbone_of(spec),)
        self.options = spec.pairs
        self.map_weight = map_weight
        self.network = network
        self.codec = MapCodec(
            self.backbone,
            self.tasks,
            num_classes=spec.num_classes,
            depth_range_m=(self.options.depth_nearest_m, self.options.depth_farthest_m),
            is_tuned=self.options.map_decoder == "tuned",
        )

    @property
    def backbone(self) -> DiffusionBackbone:
        """The frozen model, for its autoencoder and its text encoder."""
        return self._hidden[0]

    @abstractmethod
    def run_noised(
        self,
        image: Tensor,
        context: Tensor,
        encoded: EncodedLabels,
        generator: torch.Generator | None,
    ) -> PairOutputs:
        """Noise images and maps to random timesteps, and run the network once.

        Args:
            image: Scaled clean latents [B, C, h, w].
            context: Embedded captions [B, S, D].
            generator: Source of everything random.
        """

    @abstractmethod
    def map_target(self, outputs: PairOutputs, task: Task, latents: Tensor) -> Tensor:
        """Return what a pass should have said of a map with these clean latents."""

    @abstractmethod
    def make_maps(
        self, image: Tensor, context: Tensor, generators: Sequence[torch.Generator]
    ) -> dict[Task, Tensor]:
        """Make one sample of the maps of known images, as scaled latents.

        Args:
            image: Scaled clean latents [B, C, h, w].
            generators: One per image.
        """

    def observe(
        self,
        backbone: DiffusionBackbone,
        images: Tensor,
        *,
        moments: LatentMoments | None = None,
        generators: Generators = None,
        captions: Sequence[str] | None = None,
    ) -> FeaturePyramid:
        """See :meth:`DensePredictor.observe`.

        Args:
            captions: One for each image; None: the empty prompt for all.
        """
        pixels = images.to(backbone.device)
        moments = encode_moments(backbone, pixels) if moments is None else moments
        latents = moments.draw(generators=generators) * backbone.scaling_factor
        context = backbone.embed_text([""] * len(pixels) if captions is None else captions)
        seeds = draw_seeds(generators, len(pixels))
        return FeaturePyramid(((latents, context),), images=pixels, seeds=seeds)

    def forward_train(
        self,
        pyramid: Pyramid,
        *,
        labels: Labels | None = None,
        generator: torch.Generator | None = None,
    ) -> PairOutputs:
        """See :meth:`DensePredictor.forward_train`; maps that are not known are zeros."""
        image, context = _latents_and_context(pyramid)
        encoded = self._encode(labels) if labels is not None else self._nothing(image)
        return self.run_noised(image, context, encoded, generator)

    def loss(
        self, outputs: PairOutputs, labels: Labels, weights: PixelWeights | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """See :meth:`DensePredictor.loss`.

        Image + ``map_weight`` Σ_t w_t map_t, mean squares in latent space, + the tuned decoders'
        loss on the labels themselves. Weights of pixels count in a map's term. The terms are the
        maps'.
        """
        encoded = outputs.encoded
        if encoded.labels is not labels:
            encoded = self._encode(labels)
        shares = {task: self._share(task, encoded, labels, weights or {}) for task in self.tasks}
        labelled = torch.stack([(share > 0).flatten(1).any(dim=1) for share in shares.values()])
        total, terms = aggregated_loss(
            outputs.found.image,
            outputs.image_target,
            {
                task: (
                    outputs.found.maps[task],
                    self.map_target(outputs, task, encoded.maps[task]),
                    shares[task],
                )
                for task in self.tasks
            },
            head_weight=self.map_weight,
            image_weights=labelled.any(dim=0).reshape(-1, 1, 1, 1),
            task_weights=self.task_weights,
        )
        if self.codec.decoders:
            total = total + self.options.decoder_weight * self._decoder_loss(encoded, labels)
        return total, {task: terms[task] for task in self.tasks}

    def predict(self, pyramid: Pyramid, image_size: tuple[int, int]) -> Predictions:
        """See :meth:`DensePredictor.predict`: the mean of several samples of the maps.

        Images without seeds have seed 0. The first samples are those of fewer samples.
        """
        image, context = _latents_and_context(pyramid)
        seeds = [0] * len(image) if pyramid.seeds is None else pyramid.seeds.tolist()
        generators = [sample_generator(seed) for seed in seeds]
        found: dict[Task, list[Tensor]] = {task: [] for task in self.tasks}
        with evaluating(self):
            for _ in range(self.options.predict_samples):
                latents = self.make_maps(image, context, generators)
                for task, picture in self.codec.pictures(self.backbone, latents).items():
                    found[task].append(self._label_at(task, picture, image_size))
        labels: dict[Task, Tensor] = {}
        reliability: dict[Task, Tensor] = {}
        for task, samples in found.items():
            labels[task], spread = mean_of_samples(task, samples)
            is_angle = TASK_KINDS[task] == "direction"
            # Of a few samples none may lie near their mean, which is no proof that it is wrong.
            least = 0.0 if is_angle else 0.5 / len(samples)
            most = _UNIFORM_ERROR_DEG if is_angle else 1.0
            reliability[task] = spread.clamp(least, most)
        return Predictions(labels=labels, reliability=reliability)

    def create(
        self,
        captions: Sequence[str],
        *,
        seeds: Sequence[int],
        settings: CreatorSection,
        known: KnownPart,
        image_size: tuple[int, int] | None = None,
        moments: LatentMoments | None = None,
        labels: Labels | None = None,
    ) -> tuple[NDArray[np.uint8], dict[Task, Tensor]]:
        """Make images and their maps; a pair depends on its own text, seed and known parts alone.

        Args:
            captions: B texts.
            seeds: B seeds of the noise.
            settings: For ``num_steps``, ``guidance_scale`` and, of a ``pair``, ``t_start``; all
                else starts at the schedule's end.
            known: What is kept, or for ``pair`` noised to T.
            image_size: Rows and columns, for ``nothing``.
            moments: Posterior of the known images, for ``pair`` and ``image``.
            labels: Of the known images, for ``pair`` and ``labels``.

        Returns:
            Images uint8 RGB [B, H, W, 3] (a known one as the autoencoder gives it back), and the
            map of each task, encoded like ``Labels``; given labels come back as they are.

        Raises:
            ConfigError: If something needed is not given; see :meth:`expect_creates`.
            SampleError: If a known label has no valid pixel, or an image is not finite.
        """
        self.expect_creates(settings, known)
        backbone, schedule = self.backbone, self.network.schedule
        given = self._known(known, len(captions), image_size, moments, labels)
        start = settings.t_start if known == "pair" else schedule.num_train_timesteps
        with evaluating(self):
            made = sample_pairs(
                self.network,
                given,
                backbone.embed_text(captions),
                timesteps=schedule.timesteps(
                    start=start, num_steps=settings.num_steps, spacing="trailing"
                ),
                generators=[sample_generator(seed) for seed in seeds],
                guidance_scale=settings.guidance_scale,
                empty_context=backbone.embed_text([""]),
            )
            images = decode_images(backbone, made.image)
            if known == "labels" and labels is not None:
                return images, {task: labels[task] for task in self.tasks}
            return images, self.codec.decode(backbone, made.maps)

    def expect_creates(self, settings: CreatorSection, known: KnownPart) -> None:
        """Check, before anything is made, that such pairs can be.

        Args:
            known: See :meth:`create`; a model may refuse to start from noise.

        Raises:
            ConfigError: If not.
        """
        del known
        if settings.sampler != "ddim" or settings.eta > 0:
            raise ConfigError(
                f"creator.sampler = {settings.sampler}, creator.eta = {settings.eta}: pairs are "
                "made by deterministic DDIM; set them to ddim and 0"
            )

    def _known(
        self,
        part: KnownPart,
        count: int,
        image_size: tuple[int, int] | None,
        moments: LatentMoments | None,
        labels: Labels | None,
    ) -> Known:
        backbone = self.backbone
        blank = image = encoded = None
        if image_size is not None:
            shape = latent_shape(backbone, (count, *image_size))
            blank = torch.zeros(shape, device=backbone.device)
        if moments is not None:
            image = moments.draw(posterior="mode") * backbone.scaling_factor
        if labels is not None and part in {"pair", "labels"}:
            encoded = self._encode(labels)
            expect_labelled(encoded.validity)
        maps = None if encoded is None else encoded.maps
        return known_from(part, self.tasks, blank=blank, image=image, maps=maps)

    def _encode(self, labels: Labels) -> EncodedLabels:
        maps, validity = self.codec.encode(self.backbone, labels)
        return EncodedLabels(labels=labels, maps=maps, validity=validity)

    def _nothing(self, image: Tensor) -> EncodedLabels:
        zeros = torch.zeros_like(image)
        maps = dict.fromkeys(self.tasks, zeros)
        return EncodedLabels(
            labels=None, maps=maps, validity=dict.fromkeys(self.tasks, zeros[:, :1])
        )

    def _share(
        self, task: Task, encoded: EncodedLabels, labels: Labels, weights: PixelWeights
    ) -> Tensor:
        """What each latent pixel of a map counts, [B, 1, h, w]: its labelled pixels' weights."""
        if task not in weights:
            return encoded.validity[task]
        valid = self.codec.codes[task].valid(labels[task])
        return pool_validity(valid * weights[task], self.backbone.downsample_factor)

    def _decoder_loss(self, encoded: EncodedLabels, labels: Labels) -> Tensor:
        count = math.ceil(self.options.decoder_share * len(next(iter(encoded.maps.values()))))
        loss, _ = self.codec.reconstruction_loss(
            self.backbone,
            {task: latents[:count] for task, latents in encoded.maps.items()},
            {task: labels[task][:count] for task in self.tasks},
        )
        return loss

    def _label_at(self, task: Task, picture: Tensor, size: tuple[int, int]) -> Tensor:
        """Read a picture at another size; colours of classes are not mixed."""
        code = self.codec.codes[task]
        if code.kind == "classes":
            ids = code.read(picture).unsqueeze(1).float()
            return functional.interpolate(ids, size=size, mode="nearest-exact").squeeze(1).long()
        resized = functional.interpolate(picture, size=size, mode="bilinear", align_corners=False)
        return code.read(resized)

    def __deepcopy__(self, memo: dict[int, Any]) -> PairModel:
        memo[id(self.backbone)] = self.backbone
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made


def _latents_and_context(pyramid: Pyramid) -> tuple[Tensor, Tensor]:
    (latents, context), *_ = pyramid.maps
    return latents.float(), context.float()
