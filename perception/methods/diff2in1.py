"""Diff-2-in-1: adapter and task heads on the features of a frozen diffusion model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.adapter import AdapterPlan, DiffusionAdapter, bae_channel_plan
from perception.heads.dense import DepthHead, DepthPrediction, SegmentationHead
from perception.heads.normals_bae import BaeNormalsHead, NormalsLevel
from perception.losses.depth import log_error_loss, silog_loss
from perception.losses.normals import (
    NormalsLoss,
    expected_angular_error_deg,
    multi_level_normals_loss,
)
from perception.losses.segmentation import cross_entropy_loss
from perception.methods.protocol import DensePredictor, Labels, Predictions, Pyramid, evaluating

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from schemas.sample import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOutputs:
    """Training predictions of the tasks that the method has; None for the others."""

    normals: list[NormalsLevel] | None = None
    depth: DepthPrediction | None = None
    semseg: Tensor | None = None


def make_diff2in1(
    *,
    block_out_channels: Sequence[int],
    level_channels: Sequence[Sequence[int]],
    vae_scale_factor: int,
    tasks: Sequence[Task] = ("normals",),
    num_classes: int = 0,
    normals_loss: NormalsLoss = "angmf",
    width_ratio: float | None = None,
    use_spectral_norm: bool = True,
) -> Diff2in1:
    """Make an untrained method that fits a backbone.

    Args:
        block_out_channels: Widths of the U-Net's levels, fine to coarse.
        level_channels: Channel counts of the raw maps of each pyramid level, low to high
            resolution.
        vae_scale_factor: Image side / latent side.
        tasks: Any of normals, depth, semseg.
        num_classes: Classes of semseg; ids of labels are below it, or 255.
        normals_loss: Distribution of the normals.
        width_ratio: Replaces the width ratio derived from the backbone.
        use_spectral_norm: Spectral norm in the adapter's merges, as published.

    Raises:
        ValueError: If the backbone does not fit the published plan, or a task's options are
            missing.
    """
    plan = bae_channel_plan(block_out_channels, vae_scale_factor, width_ratio=width_ratio)
    adapter = DiffusionAdapter(level_channels, plan, use_spectral_norm=use_spectral_norm)
    heads = {task: _make_head(task, plan, num_classes) for task in tasks}
    return Diff2in1(adapter, heads, normals_loss=normals_loss)


def _make_head(task: Task, plan: AdapterPlan, num_classes: int) -> nn.Module:
    if task == "normals":
        return BaeNormalsHead(plan)
    if task == "depth":
        return DepthHead(plan)
    if num_classes > 1:
        return SegmentationHead(plan, num_classes)
    raise ValueError(
        f"{task}: wanted num_classes above 1, found {num_classes}; "
        "state the number of classes of the source"
    )


def supervised_loss(
    method: DensePredictor,
    pyramid: Pyramid,
    labels: Labels,
    *,
    weights_B: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch: Eq. 6 on real pairs, Eq. 7 on real and synthetic pairs together.

    Diff-2-in-1 (Zheng et al., 2024) gives L_syn the form of L_sup with the creation weights' labels
    taken as truth, so both sums are one call. Sums over pairs are means here: a constant factor.

    Args:
        method: With the weights to train: θ_W in Eq. 6, θ_E in Eq. 7.
        pyramid: Raw features of the batch, real and synthetic images in any order.
        labels: True labels of the real images, predicted labels of the synthetic ones, without
            gradient.
        weights_B: [B], relative weight of each image; None (the paper) means 1.
        generator: Source of random draws.

    Returns:
        The scalar to minimise, and the loss of each task.

    Raises:
        ValueError: If a task has no labels, or labels carry a gradient.
    """
    missing = [task for task in method.tasks if task not in labels]
    if missing:
        raise ValueError(
            f"wanted labels of {list(method.tasks)}, found none of {missing}; add them, "
            "invalid everywhere if unknown"
        )
    attached = [task for task, label in labels.items() if label.requires_grad]
    if attached:
        raise ValueError(f"wanted labels without gradient, found one on {attached}; detach them")
    loss, terms = method(pyramid, labels, weights_B, generator)
    return loss, terms


class Diff2in1(DensePredictor):
    """The trainable part of Diff-2-in-1: one adapter, one head for each task.

    Args:
        adapter: Raw features to the heads' pyramid.
        heads: Task to head, on the adapter's plan.
        normals_loss: Distribution of the normals.
        task_weights: Task to its factor in the loss; 1 where missing.
    """

    def __init__(
        self,
        adapter: DiffusionAdapter,
        heads: Mapping[Task, nn.Module],
        *,
        normals_loss: NormalsLoss = "angmf",
        task_weights: Mapping[Task, float] | None = None,
    ) -> None:
        super().__init__()
        self.tasks = tuple(heads)
        self.normals_loss: NormalsLoss = normals_loss
        self.task_weights = dict(task_weights or {})
        self.adapter = adapter
        self.heads = nn.ModuleDict({str(task): head for task, head in heads.items()})

    def forward_train(
        self,
        pyramid: Pyramid,
        *,
        labels: Labels | None = None,
        generator: torch.Generator | None = None,
    ) -> TrainOutputs:
        """See :meth:`DensePredictor.forward_train`; labels say where normals are valid."""
        maps = self.adapter(pyramid.maps)
        size = self._image_size(maps)
        normals = None
        if "normals" in self.tasks:
            valid = None if labels is None else labels["normals"].abs().sum(dim=1) > 0
            normals = self.heads["normals"](maps, valid_BHW=valid, generator=generator)
        return TrainOutputs(
            normals=normals,
            depth=self.heads["depth"](maps, size) if "depth" in self.tasks else None,
            semseg=self.heads["semseg"](maps, size) if "semseg" in self.tasks else None,
        )

    def loss(
        self, outputs: TrainOutputs, labels: Labels, weights_B: Tensor | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """See :meth:`DensePredictor.loss`: the weighted sum of the tasks' losses."""
        terms: dict[Task, Tensor] = {}
        if outputs.normals is not None:
            terms["normals"] = multi_level_normals_loss(
                outputs.normals, labels["normals"], weights_B, kind=self.normals_loss
            )
        if outputs.depth is not None:
            found, wanted = outputs.depth, labels["depth"]
            terms["depth"] = silog_loss(found.depth_m, wanted, weights_B) + log_error_loss(
                found.log_error, found.depth_m, wanted, weights_B
            )
        if outputs.semseg is not None:
            terms["semseg"] = cross_entropy_loss(outputs.semseg, labels["semseg"], weights_B)
        total = torch.stack(
            [self.task_weights.get(task, 1.0) * term for task, term in terms.items()]
        ).sum()
        return total, {task: float(term.detach()) for task, term in terms.items()}

    def predict(self, pyramid: Pyramid, image_size: tuple[int, int]) -> Predictions:
        """See :meth:`DensePredictor.predict`; every pixel passes the point networks."""
        labels: dict[Task, Tensor] = {}
        confidence: dict[Task, Tensor] = {}
        with evaluating(self):
            maps = self.adapter(pyramid.maps)
            if "normals" in self.tasks:
                labels["normals"], kappa = self._predict_normals(maps, image_size)
                confidence["normals"] = expected_angular_error_deg(kappa, kind=self.normals_loss)
            if "depth" in self.tasks:
                depth: DepthPrediction = self.heads["depth"](maps, image_size)
                labels["depth"], confidence["depth"] = depth.depth_m, torch.exp(-depth.log_error)
            if "semseg" in self.tasks:
                probability = self.heads["semseg"](maps, image_size).softmax(dim=1).max(dim=1)
                labels["semseg"], confidence["semseg"] = (
                    probability.indices,
                    probability.values.unsqueeze(1),
                )
        return Predictions(labels=labels, confidence=confidence)

    def _predict_normals(
        self, maps: list[Tensor], image_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return unit normals [B, 3, H, W] and kappa [B, 1, H, W] at ``image_size``."""
        head = self.heads["normals"]
        prediction: Tensor = head.predict(maps)  # type: ignore[operator]
        if prediction.shape[-2:] != image_size:
            prediction = functional.interpolate(
                prediction, size=image_size, mode="bilinear", align_corners=True
            )
        return functional.normalize(prediction[:, :3], dim=1), prediction[:, 3:]

    def _image_size(self, maps: list[Tensor]) -> tuple[int, int]:
        """Rows and columns of the images behind the maps."""
        plan: AdapterPlan = self.adapter.plan
        height, width = maps[len(plan.merge_channels) - 1].shape[-2:]
        return height << plan.num_refinements, width << plan.num_refinements
