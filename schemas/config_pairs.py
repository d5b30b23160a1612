"""Section ``pairs`` of the configuration: models that make an image and its maps together."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from schemas.config_base import Fraction, PositiveInt, Section


class JointNetSection(Section, fields_are="science"):
    """JointNet (Zhang et al., 2024): a U-Net of images and a copy of it for the maps of a task."""

    masks: tuple[Fraction, Fraction, Fraction, Fraction] = Field(
        default=(0.3, 0.25, 0.25, 0.2),
        description="Shares of the training pairs of which nothing is known, the image is, the map "
        "is, and what lies around rectangles is; their sum is 1.",
    )
    noise_offset: Annotated[float, Field(ge=0.0)] = Field(
        default=0.05, description="Standard deviation of noise that is equal at all pixels."
    )
    joint_branch: Literal["copy", "lora"] = Field(
        default="copy",
        description="copy: a trained copy of the whole U-Net makes the maps (the paper); lora: the "
        "frozen one with trained low-rank terms.",
    )
    lora_rank: PositiveInt = Field(default=8, description="Rank, where joint_branch is lora.")
    rgb_lr_factor: Fraction = Field(
        default=0.0,
        description="Learning rate of the images' U-Net, relative to the rest; 0: it is frozen "
        "(the paper's first stage; 0.1: the second).",
    )

    @field_validator("masks")
    @classmethod
    def _sum_is_one(cls, masks: tuple[float, float, float, float]) -> tuple[float, ...]:
        if not math.isclose(sum(masks), 1, abs_tol=1e-6):
            raise ValueError(
                f"{list(masks)} sums to {sum(masks):.6g}; wanted four shares of at least 0 that "
                "sum to 1"
            )
        return masks


class MtDiffusionSection(Section, fields_are="science"):
    """MT-Diffusion (Chen et al., 2024): one U-Net, whose noisy latents carry the maps."""

    carried: Literal["bump", "reverting", "beta", "none"] = Field(
        default="bump",
        description="How much of the maps the noise carries over time: bump, little at both ends; "
        "reverting, the more the noisier; beta, in proportion to the noise of a step; none.",
    )
    strength: Annotated[float, Field(ge=0.0)] = Field(
        default=0.5,
        description="How much at all. Pairs are made from pure noise only where the noise's end "
        "carries no more of the maps than of the image: bump up to 0.5.",
    )
    tuning: Literal["full", "lora"] = Field(
        default="full", description="Whether all of the U-Net trains, or low-rank terms alone."
    )
    lora_rank: PositiveInt = Field(default=8, description="Rank, where tuning is lora.")
    head_weight: Annotated[float, Field(ge=0.0)] = Field(
        default=0.1, description="Factor of the maps' loss relative to the image's."
    )
    drop_maps: Fraction = Field(
        default=0.5,
        description="Share of the training samples whose noise carries no map, so that the heads "
        "learn to read images.",
    )
    predict: Literal["one_pass", "refine", "repaint"] = Field(
        default="one_pass",
        description="How maps are read off an image: one_pass, once at read_timestep; refine, "
        "pairs.predict_steps times there, each time with the map of the time before; repaint, in "
        "so many steps from noise alone down to the image.",
    )
    read_timestep: Annotated[int, Field(ge=0, le=999)] = Field(
        default=100, description="Schedule index to which one_pass and refine noise the image."
    )


class PairsSection(Section, fields_are="science"):
    """Models that make an image and its maps together; read where one is used."""

    map_decoder: Literal["tuned", "shared"] = Field(
        default="tuned",
        description="tuned: each task's maps have a copy of the autoencoder's decoder that learns; "
        "shared: they are decoded like images.",
    )
    decoder_weight: Annotated[float, Field(gt=0.0)] = Field(
        default=1.0, description="Factor of the tuned decoders' loss in the whole."
    )
    decoder_share: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.25,
        description="Share of a batch's first images that the tuned decoders learn from; they "
        "learn faster than the rest.",
    )
    depth_nearest_m: Annotated[float, Field(gt=0.0)] = Field(
        default=0.25, description="Maps hold no depth below this, metres."
    )
    depth_farthest_m: Annotated[float, Field(gt=0.0)] = Field(
        default=10.0, description="Maps hold no depth beyond this, metres."
    )
    predict_samples: PositiveInt = Field(
        default=4,
        description="Maps that are made of an image to predict; their mean is the prediction, "
        "their spread its reliability.",
    )
    predict_steps: PositiveInt = Field(
        default=10, description="Denoising steps of each of these maps."
    )
    jointnet: JointNetSection = JointNetSection()
    mtdiffusion: MtDiffusionSection = MtDiffusionSection()

    @model_validator(mode="after")
    def _depths_fit(self) -> PairsSection:
        if self.depth_nearest_m >= self.depth_farthest_m:
            raise ValueError(
                f"depth_nearest_m = {self.depth_nearest_m} is not below depth_farthest_m = "
                f"{self.depth_farthest_m}; give the range of the data set"
            )
        return self
