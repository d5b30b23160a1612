"""TaskPrompter (Ye & Xu, 2023): task prompts in a ViT, diffusion features beside it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from perception.heads.task_prompts import PromptEncoder
from perception.heads.taskprompter_decoder import TaskPrompterDecoder, TaskPrompterPlan
from perception.methods.on_vit import (
    MethodOnViT,
    channels_of,
    merge_of,
    vit_of,
    width_ratio_of,
)
from perception.vit import expect_images, prepare_images

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from perception.heads.task_prompts import PromptTap
    from perception.methods.protocol import Pyramid
    from perception.methods.spec import MethodSpec
    from schemas.sample import Task


def make(
    spec: MethodSpec, *, plan: TaskPrompterPlan | None = None, use_spectral_norm: bool = True
) -> TaskPrompter:
    """Make the untrained method: published widths at ratio 1, scaled otherwise.

    Args:
        spec: The run's choices and the backbone's shapes.
        plan: Replaces the published plan, which is PASCAL-Context's with ``human_parts`` among the
            tasks and NYUD's otherwise.
        use_spectral_norm: Spectral norm in the adapter's merges, as published.

    Raises:
        ConfigError: If ``spec.encoder`` names no ViT.
        ValueError: If the backbone does not have four levels, or a number of classes is missing.
    """
    tasks = spec.choices.tasks
    if plan is None:
        made = TaskPrompterPlan.pascal if "human_parts" in tasks else TaskPrompterPlan.nyud
        plan = made(width_ratio_of(spec))
    vit = vit_of(spec)
    encoder = PromptEncoder(vit, len(tasks), grid=plan.grid, num_windows=plan.num_windows)
    merge = merge_of(spec, vit, use_spectral_norm=use_spectral_norm)
    decoder = TaskPrompterDecoder(encoder.width, encoder.num_heads, plan, channels_of(spec))
    return TaskPrompter(encoder, merge, decoder, spec.choices)


class TaskPrompter(MethodOnViT):
    """Diff-2-in-1 on TaskPrompter: one map of diffusion features is added at all four depths."""

    encoder: PromptEncoder
    decoder: TaskPrompterDecoder

    def raw_outputs(
        self, pyramid: Pyramid, *, generator: torch.Generator | None = None
    ) -> dict[Task, Tensor]:
        """See :meth:`MethodOnViT.raw_outputs`."""
        outputs: dict[Task, Tensor] = self.decoder(self.features(pyramid, generator=generator))
        return outputs

    def features(
        self, pyramid: Pyramid, *, generator: torch.Generator | None = None
    ) -> list[PromptTap]:
        """Patches, plus diffusion features, with the prompts' scores, after each quarter."""
        images = prepare_images(
            expect_images(pyramid.images),
            self.encoder.patch_size,
            multiple=math.isqrt(self.encoder.num_windows),
        )
        taps = self.encoder(images, generator=generator)
        if self.merge is None:
            return taps
        grid = (taps[0].patches.shape[-2], taps[0].patches.shape[-1])
        added = self.merge.summed(pyramid.maps, grid)
        return [replace(tap, patches=tap.patches + added) for tap in taps]
