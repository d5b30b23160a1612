"""Section ``method`` of the configuration: the predictor that learns."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from schemas.config_base import Count, Fraction, PositiveInt, Section
from schemas.sample import IGNORE_ID, Task

# fmt: off
MethodName = Literal[
    "bae", "bae_efficientnet", "idisc", "vpd", "invpt", "taskprompter", "taskdiffusion",
    "diffusionmtl", "jointnet", "mtdiffusion",
]
# fmt: on

PAIR_MODELS: tuple[MethodName, ...] = ("jointnet", "mtdiffusion")
"""Methods that make an image and its maps together; section ``pairs`` has their options."""

SCORING_FIELDS = (
    "evaluation.metrics.*",
    *(f"method.taskdiffusion.{name}" for name in ("steps", "lead", "samples", "reads_code")),
    *(f"method.taskdiffusion.{name}" for name in ("raise_every_step", "saliency_threshold")),
    "method.diffusionmtl.predicts",
    *("pairs.predict_samples", "pairs.predict_steps"),
    *("pairs.mtdiffusion.predict", "pairs.mtdiffusion.read_timestep"),
)
"""Fields that change predictions or metrics but neither a method's weights nor its loss: one set of
weights can be scored with several values of them."""


def plays_no_part_in_training(name: str) -> bool:
    """Whether a ``section.field`` is one of ``SCORING_FIELDS``."""
    return any(fnmatchcase(name, pattern) for pattern in SCORING_FIELDS)


class TaskDiffusionSection(Section, fields_are="science"):
    """TaskDiffusion (Yang et al., 2025): all tasks' labels are denoised together."""

    variant: Literal["joint", "none", "baseline"] = Field(
        default="joint",
        description="joint: the decoder reads the noised labels; none: the same network without "
        "labels and time; baseline: the joined features alone, a plain decoder for each task.",
    )
    width: Annotated[int, Field(ge=8, multiple_of=4)] | None = Field(
        default=None,
        description="Channels of the decoder; absent: 376 with human_parts among the tasks and 768 "
        "otherwise, scaled like all widths. Published for ViT-B on PASCAL-Context: 576.",
    )
    steps: PositiveInt = Field(default=3, description="Denoising steps of a prediction.")
    lead: Count = Field(
        default=1, description="Steps that each denoising step runs ahead; 0: none (plain DDIM)."
    )
    scale: Annotated[float, Field(gt=0.0)] = Field(
        default=0.01, description="Greatest absolute value of the labels' code."
    )
    reads_code: bool = Field(
        default=True,
        description="Whether predictions read the labels' code; false: a code of zeros, which "
        "shows what the code is worth.",
    )
    auxiliary_weight: Annotated[float, Field(ge=0.0)] = Field(
        default=0.25, description="Factor of the auxiliary heads' loss; published 0.125 for ViT-B."
    )
    level_weights: Literal["sigmoid", "softmax"] = Field(
        default="sigmoid", description="How levels are weighed: as printed, or as in the code."
    )
    saliency_threshold: Fraction = Field(
        default=0.85, description="Probability from which a predicted pixel is coded as salient."
    )
    raise_every_step: bool = Field(
        default=False, description="Whether every step, not only the last, works at 1/4 as well."
    )
    samples: PositiveInt = Field(
        default=1, description="Noise maps of an image whose raw outputs are averaged."
    )
    encodes_jointly: bool = Field(
        default=True, description="Whether the tasks' codes are mixed by a joint 1x1 convolution."
    )
    interaction: Literal["weights", "concatenation"] = Field(
        default="weights", description="How tasks read one another's features."
    )


class DiffusionMtlSection(Section, fields_are="science"):
    """DiffusionMTL (Ye & Xu, 2024): initial predictions, or their features, are denoised."""

    variant: Literal["feature", "prediction", "baseline"] = Field(
        default="feature",
        description="What is noised and denoised; baseline: six blocks a task and no denoiser.",
    )
    steps: PositiveInt = Field(default=2, description="Denoising steps.")
    adds_noise: bool = Field(default=True, description="false: refinement without noise.")
    condition: Literal["tasks", "none"] = Field(
        default="tasks",
        description="tasks: each task's map asks the predictions of all; none: itself alone.",
    )
    detach_condition: bool = Field(
        default=False,
        description="Whether no gradient flows from the condition into the initial predictions, "
        "as in the released code.",
    )
    num_heads: PositiveInt = Field(default=1, description="Heads of the denoiser's attention.")
    num_blocks: PositiveInt = Field(default=4, description="Blocks of the denoiser.")
    initial_weight: Annotated[float, Field(ge=0.0)] = Field(
        default=0.5, description="Factor of the initial predictions' loss."
    )
    loss_mean: Literal["image", "batch"] = Field(
        default="image",
        description="image: each image weighs the same, however many of its tasks are labelled; "
        "batch: each valid pixel does.",
    )
    predicts: Literal["final", "initial"] = Field(
        default="final",
        description="Predictions that are given: what the denoiser makes, or what it starts from.",
    )
    token_reduction: PositiveInt = Field(
        default=4, description="Factor by which maps shrink before attention; 1 for small maps."
    )


class MethodSection(Section, fields_are="science"):
    """The predictor that learns."""

    name: MethodName = Field(
        default="bae",
        description="Method whose decoder reads the diffusion features: bae (normals, and plain "
        "heads for the rest), idisc (normals, depth), vpd (semseg, depth), invpt, taskprompter, "
        "taskdiffusion and diffusionmtl (any tasks); bae_efficientnet (normals) reads no diffusion "
        "features but has an encoder of its own: the external model of the paper's Table 7; "
        "jointnet (any one task) and mtdiffusion (any tasks) make images and maps together and "
        "predict by making the maps of an image: their options are in section pairs.",
    )
    reads_diffusion: bool = Field(
        default=True,
        description="Whether the method reads the diffusion features. false, for invpt, "
        "taskprompter, taskdiffusion and diffusionmtl: their own encoder alone, as published; "
        "neither U-Net nor autoencoder is run.",
    )
    tasks: tuple[Task, ...] = Field(default=("normals",), min_length=1)
    num_classes: Annotated[int, Field(ge=1, le=IGNORE_ID)] = Field(
        default=21, description="Classes of semantic segmentation, ids from 0."
    )
    class_names: tuple[str, ...] = Field(
        default=(), description="Names of those classes, for methods that read text (vpd)."
    )
    feature_timestep: Annotated[int, Field(ge=0, le=999)] | None = Field(
        default=None,
        description="Schedule index at which features are taken; absent: that of the convention.",
    )
    feature_convention: Literal["diff2in1", "vpd"] = Field(
        default="diff2in1",
        description="diff2in1: scaled latents drawn from the posterior and noised, index 0; "
        "vpd: unscaled posterior mean without noise, index 1.",
    )
    width_ratio: Annotated[float, Field(gt=0.0)] | None = Field(
        default=None,
        description="Widths relative to the published ones; absent: the backbone's own ratio.",
    )
    task_weights: dict[Task, Annotated[float, Field(ge=0.0)]] = Field(
        default_factory=dict, description="Factor of a task's loss; absent: the method's own."
    )
    normals_loss: Literal["angmf", "vmf"] = Field(
        default="angmf", description="Distribution of normals, for methods that predict one."
    )
    encoder: str | None = Field(
        default=None,
        description="Folder or hub name of a ViT for invpt, taskprompter and taskdiffusion, of a "
        "ResNet for diffusionmtl, of an EfficientNet for bae_efficientnet; absent: one of the "
        "configured width with random weights.",
    )
    backbone_tuning: Literal["frozen", "lora", "full"] = Field(
        default="frozen",
        description="Whether the U-Net that gives the features learns too; the paper's is frozen.",
    )
    lora_rank: PositiveInt = Field(default=8, description="Rank, where backbone_tuning is lora.")
    backbone_lr_factor: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.1, description="Learning rate of the tuned U-Net, relative to the rest."
    )

    taskdiffusion: TaskDiffusionSection | None = Field(
        default=None, description="Options of that method; absent: their defaults."
    )
    diffusionmtl: DiffusionMtlSection | None = Field(
        default=None, description="Options of that method; absent: their defaults."
    )

    @field_validator("tasks")
    @classmethod
    def _tasks_once(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        if twice := [task for task in tasks if tasks.count(task) > 1]:
            raise ValueError(f"{twice[0]} is given twice; name each task once")
        return tasks

    @model_validator(mode="after")
    def _names_fit(self) -> MethodSection:
        found = len(self.class_names)
        if "semseg" in self.tasks and found not in (0, self.num_classes):
            raise ValueError(
                f"class_names: {found} names for num_classes = {self.num_classes}; name each class "
                "once, in the order of ids"
            )
        return self

    @model_validator(mode="after")
    def _pair_models_fit(self) -> MethodSection:
        if self.name == "jointnet" and len(self.tasks) != 1:
            raise ValueError(
                f"tasks = {list(self.tasks)}: jointnet has one branch for the map of one task; "
                "name one task, or set name to mtdiffusion"
            )
        if self.name in PAIR_MODELS and self.backbone_tuning != "frozen":
            raise ValueError(
                f"backbone_tuning = {self.backbone_tuning}: {self.name} trains U-Nets of its own; "
                "set it to frozen, and see pairs.jointnet.joint_branch, "
                "pairs.jointnet.rgb_lr_factor and pairs.mtdiffusion.tuning"
            )
        return self
