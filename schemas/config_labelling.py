"""Sections ``labelling`` and ``screening`` of the configuration: labels of synthetic images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from schemas.config_base import Fraction, Operations, PositiveInt, Section
from schemas.sample import LabelOrigin


class LabellingSection(Section, fields_are="science"):
    """How a synthetic image is labelled; the defaults are the paper's plain prediction."""

    origin: LabelOrigin = Field(
        default="creation",
        description="Where labels come from. creation: predicted from the image; creator: the maps "
        "made with it; agreed: predicted, and kept where the creator's map says the same; given: "
        "the labels that the image was made from (creator.known: labels).",
    )
    max_disagreement_deg: Annotated[float, Field(ge=0.0, le=180.0)] = Field(
        default=15.0, description="Normals agree up to this angle."
    )
    max_disagreement_ratio: Annotated[float, Field(ge=1.0)] = Field(
        default=1.25, description="Depths agree up to this ratio of the greater to the smaller."
    )
    max_disagreement_probability: Fraction = Field(
        default=0.25, description="Probabilities agree up to this difference."
    )
    batch_size: Operations[PositiveInt | None] = Field(
        default=None, description="Images labelled together; none: as many as creator.batch_size."
    )
    average_mirrored: bool = Field(
        default=False, description="Average the prediction with that of the mirrored image."
    )
    max_pixel_error_deg: Annotated[float, Field(gt=0.0, le=180.0)] = Field(
        default=180.0,
        description="Pixels whose predicted normal has a greater expected angular error stay "
        "unlabelled.",
    )
    min_pixel_confidence: Fraction = Field(
        default=0.0,
        description="Pixels whose predicted depth, class or probability is less sure stay "
        "unlabelled; of a probability p that is max(p, 1 - p), so above 0.5 to matter.",
    )
    soft_labels: bool = Field(
        default=False,
        description="Saliency and boundaries keep their predicted probability; else 1 where it is "
        "at least 0.5, 0 elsewhere. Classes are the most probable one either way.",
    )


class ScreeningSection(Section, fields_are="science"):
    """When a synthetic sample is dropped."""

    min_pixel_std: Annotated[float, Field(ge=0.0)] = Field(
        default=8.0, description="Least standard deviation of the image, in 8-bit steps."
    )
    max_expected_error_deg: Annotated[float, Field(gt=0.0, le=180.0)] = Field(
        default=60.0, description="Greatest mean expected angular error of predicted normals."
    )
    min_agreement: Fraction = Field(
        default=0.0,
        description="Least share of pixels, of every task, where the creator's map agrees with the "
        "prediction; of creators that make maps.",
    )
    min_confidence: Fraction = Field(
        default=0.0,
        description="Least mean confidence of every predicted task but normals: depth, semseg, "
        "human_parts, saliency, boundaries.",
    )
