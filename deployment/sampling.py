"""Labelled images on demand: from pure noise under a prompt, or from an image halfway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from perception.diffusion.halfway import (
    synthesize_gaussian,
    synthesize_halfway,
)
from perception.seeding import sample_seed
from pipeline.make.rows import code_version, pixels_sha256
from schemas.config import PURE_NOISE_START, CreatorSection
from schemas.digest import sha256_of
from schemas.errors import ConfigError
from schemas.problems import problem_lines
from schemas.sample import Sample
from sources.resize import resize_image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from deployment.predictor import Predictor
    from perception.diffusion.backbone import DiffusionBackbone
    from runs.counting import OnDone
    from schemas.weights import WeightsManifest

    Images = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingOptions:
    """The sampler's numbers, where they should differ from the run's; None: as in the run.

    Attributes:
        t_start: Timestep that an image is noised to, in [1, 1000]; a prompt alone starts at 1000.
        num_steps: Network calls; by default as dense as in the run.
        guidance_scale: Classifier-free guidance; 1 is none.
    """

    t_start: int | None = None
    num_steps: int | None = None
    guidance_scale: float | None = None


def settings_for(
    creator: CreatorSection, options: SamplingOptions, *, t_start: int
) -> CreatorSection:
    """Settings of the sampler from a timestep down.

    Args:
        creator: The run's; its steps, spread over its own range, decide how dense ours are.
        t_start: Where to start if the user does not say.

    Raises:
        ConfigError: If a number is out of range.
    """
    start = t_start if options.t_start is None else options.t_start
    own_start = creator.start or creator.t_start
    steps = options.num_steps
    if steps is None:
        steps = min(max(1, round(creator.num_steps * start / own_start)), max(1, start))
    changed: dict[str, Any] = {"kind": "halfway", "t_start": start, "num_steps": steps}
    if creator.makes_maps:
        # Made by the frozen backbone, for a prompt or an image comes without labels.
        changed["known"] = None
    if options.guidance_scale is not None:
        changed["guidance_scale"] = options.guidance_scale
    try:
        return CreatorSection.model_validate({**creator.model_dump(), **changed})
    except ValidationError as error:
        lines = problem_lines(error, CreatorSection, page="docs/configuration.md")
        raise ConfigError("\n".join(line.strip() for line in lines)) from error


@dataclass(frozen=True, kw_only=True, eq=False)
class PairMaker:
    """Makes images and labels them.

    Attributes:
        predictor: Labels the images.
        backbone: Makes them.
        creator: How the run makes images.
        weights: Named in the provenance.
        creator_weights: Of a creator that has learnt, in ``backbone``; named, too.
    """

    predictor: Predictor
    backbone: DiffusionBackbone
    creator: CreatorSection
    weights: WeightsManifest
    creator_weights: WeightsManifest | None = None

    def from_prompt(
        self,
        prompt: str,
        *,
        count: int,
        seed: int,
        options: SamplingOptions | None,
        on_done: OnDone | None = None,
    ) -> list[Sample]:
        """See :meth:`deployment.loaded_run.LoadedRun.sample`.

        Raises:
            ConfigError: If a number is out of range, or ``t_start`` is not the end of the schedule.
        """
        settings = settings_for(
            self.creator, options or SamplingOptions(), t_start=PURE_NOISE_START
        )
        backbone, size = self.backbone, self.predictor.image_size

        def synthesize(seeds: Sequence[int]) -> Images:
            prompts = [prompt] * len(seeds)
            return synthesize_gaussian(
                backbone, prompts, image_size_px=size, settings=settings, seeds=seeds
            )

        seeds = _seeds(seed, f"prompt/{prompt}", count)
        facts = self._facts(settings, creator="gaussian") | {"caption_model": "user"}
        return self._label(synthesize, seeds, prompt, facts, on_done)

    def from_image(
        self,
        image: NDArray[np.uint8],
        prompt: str,
        *,
        name: str,
        count: int,
        seed: int,
        options: SamplingOptions | None,
        on_done: OnDone | None = None,
    ) -> list[Sample]:
        """See :meth:`deployment.loaded_run.LoadedRun.vary`; ``name`` is the image's, if any.

        Raises:
            ConfigError: If a number is out of range.
        """
        start = self.creator.t_start
        settings = settings_for(self.creator, options or SamplingOptions(), t_start=start)
        backbone = self.backbone
        real = resize_image(image, self.predictor.image_size)

        def synthesize(seeds: Sequence[int]) -> Images:
            return synthesize_halfway(
                backbone,
                [real] * len(seeds),
                [prompt] * len(seeds),
                settings=settings,
                seeds=seeds,
            )

        digest = pixels_sha256(image)
        seeds = _seeds(seed, f"image/{digest}/{prompt}", count)
        facts = self._facts(settings, creator="halfway")
        facts |= {"source_key": name, "source_sha256": digest}
        return self._label(synthesize, seeds, prompt, facts, on_done)

    def _label(
        self,
        synthesize: Callable[[Sequence[int]], Images],
        seeds: Sequence[int],
        prompt: str,
        facts: dict[str, Any],
        on_done: OnDone | None,
    ) -> list[Sample]:
        made: list[Sample] = []
        for first in range(0, len(seeds), self.creator.batch_size):
            chosen = seeds[first : first + self.creator.batch_size]
            images = list(synthesize(chosen))
            found = self.predictor.predict(images, seeds=chosen)
            made += [
                Sample(
                    key=f"{first + index:04d}-{seed:016x}",
                    image=image,
                    labels=dict(labels),
                    reliability=labels.reliability,
                    caption=prompt,
                    is_synthetic=True,
                    meta={**facts, "seed": seed},
                )
                for index, (seed, image, labels) in enumerate(
                    zip(chosen, images, found, strict=True)
                )
            ]
            if on_done is not None:
                on_done(len(made), len(seeds))
        return made

    def _facts(self, settings: CreatorSection, *, creator: str) -> dict[str, Any]:
        """Provenance under the names of the manifest's columns."""
        learnt = self.creator_weights
        facts = {
            "creator": creator,
            "t_start": settings.t_start,
            "steps": settings.num_steps,
            "guidance": settings.guidance_scale,
            "scheduler": settings.sampler,
            "diffusion_base_hash": self.backbone.model_id,
            "creation_version": self.weights.version,
            "creation_step": self.weights.step,
            "creation_sha256": self.weights.sha256,
            "code_version": code_version(),
        }
        if learnt is not None:
            facts |= {"creator_version": learnt.version, "creator_hash": learnt.sha256}
        return facts


def _seeds(seed: int, what: str, count: int) -> list[int]:
    if count < 1:
        raise ConfigError(f"count = {count}: wanted at least 1 image")
    if seed < 0:
        raise ConfigError(f"seed = {seed}: wanted a number from 0")
    digest = sha256_of(what.encode())
    return [sample_seed(f"{seed}", digest, variant) for variant in range(count)]
