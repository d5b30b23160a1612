"""Bae et al. (2021) as method: normals by their decoder, other tasks by plain pyramid heads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.adapter import AdapterPlan, DiffusionAdapter, bae_channel_plan
from perception.heads.dense import DepthHead, DepthPrediction, LogitsHead
from perception.heads.normals_bae import BaeNormalsHead, NormalsLevel
from perception.losses.depth import log_error_loss, silog_loss
from perception.losses.multi_task import MULTI_TASK_LOSSES, MULTI_TASK_WEIGHTS
from perception.losses.normals import (
    NormalsLoss,
    expected_angular_error_deg,
    multi_level_normals_loss,
)
from perception.methods.protocol import (
    DensePredictor,
    Labels,
    PixelWeights,
    Predictions,
    Pyramid,
    evaluating,
)
from perception.methods.raw_outputs import class_prediction, probability_prediction
from schemas.sample import TASK_KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perception.methods.spec import MethodSpec
    from schemas.config_method import MethodSection
    from schemas.sample import Task


BAE_TASK_WEIGHTS: dict[Task, float] = MULTI_TASK_WEIGHTS | {"normals": 1.0, "depth": 1.0}
"""Factors of the tasks' losses: the multi-task recipe's, but 1 where the loss is bae's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOutputs:
    """Training predictions of the tasks that the method has.

    Attributes:
        normals: Coarse to fine; None if not a task.
        depth: None if not a task.
        logits: Every other task to its logits, [B, classes or 1, H, W].
    """

    normals: list[NormalsLevel] | None = None
    depth: DepthPrediction | None = None
    logits: dict[Task, Tensor] = field(default_factory=dict)


def make(spec: MethodSpec, *, use_spectral_norm: bool = True) -> Bae:
    """Make the untrained method for a run: any tasks, in any order.

    Args:
        spec: The run's choices and the backbone's shapes.
        use_spectral_norm: Spectral norm in the adapter's merges, as published.

    Raises:
        ValueError: If the backbone does not fit the published plan, or a task's number of classes
            is missing.
    """
    choices = spec.choices
    plan = bae_channel_plan(
        spec.block_out_channels, spec.vae_scale_factor, width_ratio=choices.width_ratio
    )
    adapter = DiffusionAdapter(spec.level_channels, plan, use_spectral_norm=use_spectral_norm)
    heads = {task: _make_head(task, plan, spec.num_classes) for task in choices.tasks}
    return Bae(adapter, heads, choices)


def _make_head(task: Task, plan: AdapterPlan, num_classes: Mapping[Task, int]) -> nn.Module:
    if task == "normals":
        return BaeNormalsHead(plan)
    if task == "depth":
        return DepthHead(plan)
    if TASK_KINDS[task] == "probability":
        return LogitsHead(plan, 1)
    count = num_classes.get(task, 0)
    if count > 1:
        return LogitsHead(plan, count)
    raise ValueError(
        f"{task}: wanted num_classes above 1, found {count}; "
        "state the number of classes of the source"
    )


class Bae(DensePredictor):
    """Diff-2-in-1 on Bae: one adapter (Eq. 9, Eq. 10), one head for each task.

    Args:
        heads: Task to head, on the adapter's plan.
        choices: Section ``method`` of the configuration; a factor of ``BAE_TASK_WEIGHTS`` counts
            where it has none.
    """

    def __init__(
        self,
        adapter: DiffusionAdapter,
        heads: Mapping[Task, nn.Module],
        choices: MethodSection,
    ) -> None:
        super().__init__(choices)
        self.normals_loss: NormalsLoss = choices.normals_loss
        self.adapter = adapter
        self.heads = nn.ModuleDict({str(task): head for task, head in heads.items()})
        self._logits_tasks = tuple(task for task in heads if task not in ("normals", "depth"))

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
            logits={task: self.heads[task](maps, size) for task in self._logits_tasks},
        )

    def loss(
        self, outputs: TrainOutputs, labels: Labels, weights: PixelWeights | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """See :meth:`DensePredictor.loss`: the weighted sum of the tasks' losses."""
        terms: dict[Task, Tensor] = {}
        weights = weights or {}
        if outputs.normals is not None:
            terms["normals"] = multi_level_normals_loss(
                outputs.normals, labels["normals"], weights.get("normals"), kind=self.normals_loss
            )
        if outputs.depth is not None:
            found, wanted, counts = outputs.depth, labels["depth"], weights.get("depth")
            terms["depth"] = silog_loss(found.depth_m, wanted, counts) + log_error_loss(
                found.log_error, found.depth_m, wanted, counts
            )
        for task, logits in outputs.logits.items():
            terms[task] = MULTI_TASK_LOSSES[task](logits, labels[task], weights.get(task))
        factors = BAE_TASK_WEIGHTS | dict(self.task_weights)
        total = torch.stack([factors[task] * term for task, term in terms.items()]).sum()
        return total, {task: float(term.detach()) for task, term in terms.items()}

    def predict(self, pyramid: Pyramid, image_size: tuple[int, int]) -> Predictions:
        """See :meth:`DensePredictor.predict`; every pixel passes the point networks."""
        labels: dict[Task, Tensor] = {}
        reliability: dict[Task, Tensor] = {}
        with evaluating(self):
            maps = self.adapter(pyramid.maps)
            if "normals" in self.tasks:
                labels["normals"], kappa = self._predict_normals(maps, image_size)
                reliability["normals"] = expected_angular_error_deg(kappa, kind=self.normals_loss)
            if "depth" in self.tasks:
                depth: DepthPrediction = self.heads["depth"](maps, image_size)
                labels["depth"], reliability["depth"] = depth.depth_m, torch.exp(-depth.log_error)
            for task in self._logits_tasks:
                logits = self.heads[task](maps, image_size)
                is_class = TASK_KINDS[task] == "classes"
                read = class_prediction if is_class else probability_prediction
                labels[task], reliability[task] = read(logits)
        return Predictions(labels=labels, reliability=reliability)

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
