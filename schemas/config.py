"""The configuration of a complete run: every field, its range, its default and its meaning.

Defaults are the papers' where a paper states one (Diff-2-in-1: T = 600, 50 steps, α = 0.998, one
moving-average update each 40 samples). ``load_config`` in ``schemas.config_file`` reads it.
``schemas.config_base`` says which fields a run may change when it is resumed.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from schemas.config_base import Count, Fraction, Operations, PositiveInt, Section, values_of
from schemas.config_labelling import LabellingSection, ScreeningSection
from schemas.config_method import PAIR_MODELS, MethodSection
from schemas.config_metrics import MetricsSection
from schemas.config_operations import GenerationSection, RayEnvironment
from schemas.config_pairs import PairsSection
from schemas.config_source import RoomsSource, Source
from schemas.config_training import TrainingSection
from schemas.digest import digest_of
from schemas.names import run_id_of
from schemas.paths import absolute_url


class RunSection(Section, fields_are="science"):
    """Where the run lives."""

    url: Operations[str] = Field(
        description="Run directory: a folder or any fsspec URL (memory://, s3://)."
    )
    seed: Count = Field(default=0, description="Seed of everything that is random in the run.")
    recipe: Operations[str] = Field(
        default="",
        description="Noted in the run directory when a run begins: the digest that ids of its "
        "units are made from. A value given elsewhere does not count.",
    )

    @field_validator("url")
    @classmethod
    def _is_absolute(cls, url: str) -> str:
        # What cannot be a run directory stays: opening it says what is wrong.
        return absolute_url(url) if url and "::" not in url else url


class ModelSection(Section, fields_are="science"):
    """The frozen models."""

    diffusion: str = Field(
        default="starter/diffusion",
        description="Folder or hub name in diffusers form (Stable Diffusion v1-5 or alike), or one "
        ".safetensors file of all weights in the form of its authors.",
    )
    diffusion_config: str | None = Field(
        default=None,
        description="For one .safetensors file: folder or hub name that configurations and "
        "tokenizer are read from; if absent, beside the file, else those of v1-5 on the hub.",
    )
    variant: str | None = Field(
        default=None,
        pattern=r"^\w+$",
        description="Variant of the weights in the folder (fp16, ...); found by itself where there "
        "is no choice.",
    )
    captioner: Literal["blip2", "image_to_text", "file", "source", "none"] = Field(
        default="blip2",
        description="blip2: run a BLIP-2; image_to_text: run any image-to-text model of "
        "transformers (BLIP, GIT, ViT-GPT2, ...); file: read a JSON object key -> caption; "
        "source: the source's own captions; none: empty captions.",
    )
    captioner_path: str = Field(
        default="starter/captioner",
        description="Folder or hub name of the captioning model, or the JSON file.",
    )
    device: Operations[str] = Field(default="auto", description="auto, cpu, cuda or cuda:N.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="Precision of the frozen models; latents and samplers stay in float32.",
    )
    channels_last: Operations[bool] = Field(
        default=True, description="Memory layout that tensor cores want; results stay the same."
    )
    compile: Operations[bool] = Field(
        default=False,
        description="torch.compile for the U-Net of synthesis: minutes at the start, faster steps.",
    )
    vae_slicing: Operations[bool] = Field(
        default=False, description="Encode and decode one image at a time: less memory."
    )
    vae_tiling: bool = Field(
        default=False,
        description="Encode and decode images larger than the model's own size in tiles.",
    )
    attention_slicing: Operations[bool] = Field(
        default=False, description="Attention in slices: for devices without fused attention."
    )


CreatorKind = Literal["halfway", "gaussian", "unlabelled", "completion", "jointnet", "mtdiffusion"]

TRAINED_KINDS = ("halfway", "gaussian", *PAIR_MODELS)
"""Values of ``creator.kind`` with networks that may learn (section ``training.creator``)."""

PURE_NOISE_START = 1000
"""Timestep of the schedule's end: what starts there keeps nothing of an image."""


class CreatorSection(Section, fields_are="science"):
    """How a synthetic image is made from a real one."""

    kind: CreatorKind = Field(
        default="halfway",
        description="halfway: noise an image to T and denoise it; gaussian: denoise pure noise; "
        "unlabelled: take real images of the source that are not among the labelled ones; "
        "completion: take the labelled ones and predict the labels that they lack; jointnet, "
        "mtdiffusion: a pair model (section pairs) learns on the source's pairs (section "
        "training.creator) and makes images together with maps of method.tasks.",
    )
    known: Literal["nothing", "pair", "labels"] | None = Field(
        default=None,
        description="What jointnet and mtdiffusion make a pair from. pair, also if absent: a real "
        "image and its labels, both noised to T; nothing: noise alone; labels: a real image's "
        "labels are kept and an image is made for them. The last two start from noise: t_start has "
        "to be 1000.",
    )
    t_start: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=600, description="Timestep T to which the latent is noised."
    )
    num_steps: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=50, description="Denoising steps between T and 0."
    )
    sampler: Literal["ddim", "dpmsolver++"] = "ddim"
    guidance_scale: Annotated[float, Field(ge=1.0, le=50.0)] = Field(
        default=1.0, description="1 = no classifier-free guidance."
    )
    eta: Fraction = Field(default=0.0, description="DDIM noise; 0 = deterministic.")
    batch_size: Operations[PositiveInt] = Field(default=16, description="Images denoised together.")

    @model_validator(mode="after")
    def _steps_fit(self) -> CreatorSection:
        if self.num_steps > self.t_start:
            raise ValueError(
                f"num_steps = {self.num_steps} is more than t_start = {self.t_start}; "
                "lower num_steps or raise t_start"
            )
        if self.eta > 0 and self.sampler != "ddim":
            raise ValueError(f"eta = {self.eta}: wanted 0, for only sampler ddim adds noise")
        return self

    @model_validator(mode="after")
    def _pairs_can_be_made(self) -> CreatorSection:
        if not self.makes_maps:
            if self.known is not None:
                raise ValueError(
                    f"known = {self.known}: kind = {self.kind} makes images alone; remove it, or "
                    f"set kind to one of {', '.join(PAIR_MODELS)}"
                )
            return self
        if self.sampler != "ddim" or self.eta > 0:
            raise ValueError(
                f"sampler = {self.sampler}, eta = {self.eta}: kind = {self.kind} makes pairs by "
                "deterministic DDIM; set them to ddim and 0"
            )
        if self.starts_from != "pair" and self.t_start != PURE_NOISE_START:
            raise ValueError(
                f"t_start = {self.t_start}: known = {self.known} starts from noise alone; set "
                f"t_start to {PURE_NOISE_START}, or known to pair"
            )
        return self

    @property
    def makes_maps(self) -> bool:
        """Whether maps are made together with the images."""
        return self.kind in PAIR_MODELS

    @property
    def starts_from(self) -> Literal["nothing", "pair", "labels"]:
        """What pairs are made from, where the kind makes some."""
        return self.known or "pair"

    @property
    def start(self) -> int:
        """Timestep that images start from; 0 for images that are taken as they are."""
        starts = {"gaussian": PURE_NOISE_START, "unlabelled": 0, "completion": 0}
        return starts.get(self.kind, self.t_start)


class PlanSection(Section, fields_are="science"):
    """What is generated."""

    rounds: PositiveInt = Field(default=3, description="Rounds of labelling.")
    variants: PositiveInt = Field(default=1, description="Synthetic images per source image.")
    unit_size: PositiveInt = Field(default=16, description="Source images per unit.")
    images: Literal["reuse", "fresh"] = Field(
        default="reuse",
        description="reuse: images are made in round 0, later rounds renew their labels; "
        "fresh: every round makes new images.",
    )


class EvaluationSection(Section, fields_are="science"):
    """What is scored at the end."""

    batch_size: Operations[PositiveInt] = 32
    control: bool = Field(
        default=True, description="Train and score the real-only control as well."
    )
    metrics: MetricsSection = MetricsSection()


class RunConfig(Section, fields_are="science"):
    """A complete run."""

    run: RunSection
    model: ModelSection = ModelSection()
    source: Source = RoomsSource()
    method: MethodSection = MethodSection()
    pairs: PairsSection = PairsSection()
    creator: CreatorSection = CreatorSection()
    plan: PlanSection = PlanSection()
    labelling: LabellingSection = LabellingSection()
    screening: ScreeningSection = ScreeningSection()
    training: TrainingSection
    generation: GenerationSection = GenerationSection()
    evaluation: EvaluationSection = EvaluationSection()
    ray: RayEnvironment = RayEnvironment()

    @model_validator(mode="after")
    def _batch_splits(self) -> RunConfig:
        workers = self.training.num_workers
        for stage in ("warm_up", "self_improve", "creator"):
            section = getattr(self.training, stage)
            batch = section.batch_size if section else 0
            if batch % workers:
                raise ValueError(
                    f"training.{stage}.batch_size = {batch} cannot be split over "
                    f"training.num_workers = {workers}; make it a multiple"
                )
        return self

    @model_validator(mode="after")
    def _completes_once(self) -> RunConfig:
        if self.creator.kind == "completion" and self.plan.variants > 1:
            raise ValueError(
                f"plan.variants = {self.plan.variants}: creator.kind = completion takes each real "
                "image as it is, so its variants would be copies; set plan.variants=1"
            )
        return self

    @model_validator(mode="after")
    def _creator_can_learn(self) -> RunConfig:
        if self.training.creator is None:
            return self
        if self.creator.kind not in TRAINED_KINDS:
            raise ValueError(
                f"creator.kind = {self.creator.kind}: has nothing to train, but training.creator "
                f"is given; remove it, or set creator.kind to one of {', '.join(TRAINED_KINDS)}"
            )
        if self.training.synthetic_run is not None:
            raise ValueError(
                f"training.synthetic_run = {self.training.synthetic_run}: nothing is generated "
                "then, but training.creator is given; remove one of the two"
            )
        if self.model.dtype == "float16":
            raise ValueError(
                "model.dtype = float16: small gradients vanish in it, but training.creator is "
                "given; set model.dtype to bfloat16 or float32"
            )
        return self

    @model_validator(mode="after")
    def _pair_creator_fits(self) -> RunConfig:
        kind, stage, tasks = self.creator.kind, self.training.creator, self.method.tasks
        if not self.creator.makes_maps:
            return self
        if stage is None:
            raise ValueError(
                f"creator.kind = {kind}: makes nothing before it has learnt, found no section "
                "training.creator; add training.creator.steps"
            )
        if stage.tuning != "lora":
            raise ValueError(
                f"training.creator.tuning = {stage.tuning}: plays no part in creator.kind = "
                f"{kind}; remove it, section pairs says what of its networks learns"
            )
        if kind == "jointnet" and len(tasks) > 1:
            raise ValueError(
                f"creator.kind = jointnet: makes the maps of one task, found method.tasks = "
                f"{list(tasks)}; leave one, or set creator.kind to mtdiffusion"
            )
        return self

    @model_validator(mode="after")
    def _labels_have_an_origin(self) -> RunConfig:
        origin, creator = self.labelling.origin, self.creator
        if not creator.makes_maps:
            if origin != "creation":
                raise ValueError(
                    f"labelling.origin = {origin}: creator.kind = {creator.kind} makes images "
                    "alone, found no maps to label them with; set it to creation, or creator.kind "
                    f"to one of {', '.join(PAIR_MODELS)}"
                )
            return self
        is_given = creator.starts_from == "labels"
        if origin in {"creator", "given"} and is_given != (origin == "given"):
            other = "given" if is_given else "creator"
            raise ValueError(
                f"labelling.origin = {origin}: found creator.known = {creator.starts_from}, whose "
                f"maps are those of origin {other}; set labelling.origin to {other}, agreed or "
                "creation, or change creator.known"
            )
        if origin in {"creator", "given"} and self.plan.rounds > 1 and self.plan.images == "reuse":
            raise ValueError(
                f"plan.rounds = {self.plan.rounds}: labels of origin {origin} do not change with "
                "the weights, so later rounds would store them again; set plan.rounds=1 or "
                "plan.images=fresh"
            )
        return self

    @property
    def recipe_hash(self) -> str:
        """Digest of what decides synthetic images; as the run directory notes it, if it does."""
        return self.run.recipe or self.noting_recipe().run.recipe

    def noting_recipe(self, recipe: str = "") -> RunConfig:
        """The same with ``run.recipe``: this one, or that of the models' and creator's science.

        How a creator learns is part of the latter, and of which maps, if it makes some.
        """
        sections: tuple[str, ...] = ("model.", "creator.", "training.creator.")
        if self.creator.makes_maps:
            sections += ("pairs.", "method.tasks", "method.num_classes", "method.task_weights")
        chosen = {
            path: value
            for path, kind, value in values_of(self)
            if kind == "science"
            and path.startswith(sections)
            # A field that came later leaves the digest as it was where it is not used.
            and value is not None
        }
        run = self.run.model_copy(update={"recipe": recipe or digest_of(chosen)})
        return self.model_copy(update={"run": run})

    @property
    def run_id(self) -> str:
        """Name of the run, by which no other is called."""
        return run_id_of(self.run.url)
