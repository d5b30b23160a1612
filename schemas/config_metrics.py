"""The part of a run's configuration that says how metrics are computed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.config_base import Section

DepthProtocol = Literal["pooled", "per_image"]
AbsentClasses = Literal["left_out", "zero"]
SaliencyProtocol = Literal["pooled", "per_image_f1"]


class MetricsSection(Section, fields_are="science"):
    """How metrics are computed where publications differ; docs/metrics.md explains each."""

    depth_protocol: DepthProtocol = Field(
        default="pooled",
        description="pooled: over all pixels of the data set; per_image: mean over images of each "
        "one's errors inside the Eigen crop, 1e-3 to 10 m.",
    )
    depth_min_m: Annotated[float, Field(ge=0.0)] | None = Field(
        default=None,
        description="Depths at or below it are not counted; absent: the protocol's (pooled: 0).",
    )
    depth_max_m: Annotated[float, Field(gt=0.0)] | None = Field(
        default=None,
        description="Depths at or above it are not counted; absent: the protocol's (pooled: none).",
    )
    absent_classes: AbsentClasses = Field(
        default="left_out",
        description="What a class that neither occurs nor is predicted adds to mIoU.",
    )
    saliency_protocol: SaliencyProtocol = Field(
        default="pooled",
        description="pooled: greatest F, β² = 0.3, of precision and recall over the data set; "
        "per_image_f1: greatest F1 of their means over images.",
    )
    saliency_double_sigmoid: bool = Field(
        default=False,
        description="Send saliency through one more sigmoid before it is thresholded, as published "
        "figures of the InvPT family do.",
    )
    boundary_thresholds: Annotated[int, Field(ge=1, le=1001)] = Field(
        default=101, description="Thresholds of the boundary score."
    )
    boundary_tolerance: Annotated[float, Field(ge=0.0, le=0.1)] = Field(
        default=0.0075,
        description="Greatest distance of matched boundary pixels, as a share of the diagonal; "
        "0.011 is usual for NYUD. Below one pixel only pixels in the same place match.",
    )
    boundary_nms: bool = Field(
        default=True,
        description="Reduce predicted boundaries to their ridges; false where they are thin.",
    )

    @model_validator(mode="after")
    def _range_holds_depths(self) -> MetricsSection:
        low, high = self.depth_min_m, self.depth_max_m
        if low is not None and high is not None and low >= high:
            raise ValueError(
                f"depth_min_m = {low} is not below depth_max_m = {high}; no depth would count"
            )
        return self
