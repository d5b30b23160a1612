"""Maps through the autoencoder of images: labels to latents, and back by decoders of their own.

The frozen encoder keeps a map's content; the frozen decoder may not bring it back, as it knows
photographs alone. So each task can have a copy of the decoder that learns.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from perception.diffusion.latents import encode_latents
from perception.pairs.pictures import PictureCode, make_palette, pool_validity
from schemas.errors import ConfigError
from schemas.sample import TASK_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from perception.diffusion.backbone import DiffusionBackbone
    from perception.diffusion.latents import Posterior
    from perception.seeding import Generators
    from schemas.sample import Task, TaskKind

ROUND_TRIP_MEASURES: dict[TaskKind, str] = {
    "direction": "mean_deg",
    "distance": "abs_rel",
    "classes": "share_right",
    "probability": "mean_abs_error",
}
"""What :func:`round_trip_errors` gives for a kind; of shares more is better."""


class MapCodec(nn.Module):
    """Labels of dense tasks as latents of the backbone's autoencoder; its tensors are decoders.

    Labels are encoded as methods take them (``perception/methods/protocol.py``).

    Args:
        backbone: Whose decoder is copied; the model that all calls are given.
        tasks: Tasks whose maps are encoded.
        num_classes: Classes of each task whose labels are class ids.
        depth_range_m: Nearest and farthest distance in metres; values beyond become these.
        is_tuned: Whether each task has a decoder of its own to train; else all share the
            backbone's, which stays frozen.

    Raises:
        ConfigError: If a task lacks its number of classes or its range.
    """

    def __init__(
        self,
        backbone: DiffusionBackbone,
        tasks: Sequence[Task],
        *,
        num_classes: Mapping[Task, int] | None = None,
        depth_range_m: tuple[float, float] = (0.0, 0.0),
        is_tuned: bool = True,
    ) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.codes = {
            task: _make_code(task, num_classes or {}, depth_range_m) for task in self.tasks
        }
        own = self.tasks if is_tuned else ()
        self.decoders = nn.ModuleDict({task: _copy_decoder(backbone.vae) for task in own})

    def encode(
        self,
        backbone: DiffusionBackbone,
        labels: Mapping[Task, Tensor],
        *,
        posterior: Posterior = "mode",
        generators: Generators = None,
    ) -> tuple[dict[Task, Tensor], dict[Task, Tensor]]:
        """Draw labels as pictures and encode these.

        Mirror labels before, never latents: a mirrored normal has another x.

        Args:
            labels: Of all tasks; a missing one is invalid everywhere.
            posterior: See ``encode_latents``.

        Returns:
            Scaled latents of each task, float32 [B, C, h, w], and the share of valid pixels in
            each latent pixel, [B, 1, h, w], which a loss weighs by.
        """
        latents: dict[Task, Tensor] = {}
        validity: dict[Task, Tensor] = {}
        for task, code in self.codes.items():
            label = labels[task].to(backbone.device)
            latents[task] = encode_latents(
                backbone, code.draw(label), posterior=posterior, generators=generators
            )
            validity[task] = pool_validity(code.valid(label), backbone.downsample_factor)
        return latents, validity

    def pictures(
        self, backbone: DiffusionBackbone, latents: Mapping[Task, Tensor]
    ) -> dict[Task, Tensor]:
        """Decode scaled latents to pictures, float32 [B, 3, H, W], about in [-1, 1].

        Args:
            latents: Of any of the tasks; those of a decoder of its own let gradients through.
        """
        return {task: self._picture(backbone, task, each) for task, each in latents.items()}

    def decode(
        self, backbone: DiffusionBackbone, latents: Mapping[Task, Tensor]
    ) -> dict[Task, Tensor]:
        """Decode scaled latents to labels, valid everywhere."""
        pictures = self.pictures(backbone, latents)
        return {task: self.codes[task].read(each) for task, each in pictures.items()}

    def reconstruction_loss(
        self,
        backbone: DiffusionBackbone,
        latents: Mapping[Task, Tensor],
        labels: Mapping[Task, Tensor],
    ) -> tuple[Tensor, dict[str, float]]:
        """Compare decoded latents with the labels that they were encoded from, on valid pixels.

        It trains the decoders of the tasks alone; the terms are those of ``PictureCode.loss``.

        Returns:
            The sum over the tasks, and the term of each.

        Raises:
            ConfigError: If there is no decoder to train.
        """
        if not self.decoders:
            raise ConfigError(
                "map decoder: wanted decoders that learn, found the backbone's own; make the codec "
                "with is_tuned, or train none"
            )
        pictures = self.pictures(backbone, latents)
        terms = {
            task: self.codes[task].loss(each, labels[task].to(each.device))
            for task, each in pictures.items()
        }
        total = torch.stack(list(terms.values())).sum()
        return total, {task: float(term.detach()) for task, term in terms.items()}

    def _picture(self, backbone: DiffusionBackbone, task: Task, latents: Tensor) -> Tensor:
        unscaled = latents / backbone.scaling_factor
        if task in self.decoders:
            picture: Tensor = self.decoders[task](unscaled)
            return picture
        with torch.no_grad():
            unscaled = unscaled.to(backbone.dtype, memory_format=torch.channels_last)
            decoded: Tensor = backbone.vae.decode(unscaled, return_dict=False)[0]
        return decoded.float()


@torch.no_grad()
def round_trip_errors(
    codec: MapCodec, backbone: DiffusionBackbone, batches: Iterable[Mapping[Task, Tensor]]
) -> dict[Task, float]:
    """Measure what encoding and decoding loses: the floor of every map made in latent space.

    Args:
        batches: Labels of all tasks.

    Returns:
        The mean over all valid pixels in the measure of ``ROUND_TRIP_MEASURES``; NaN of a task
        without labels.
    """
    sums = dict.fromkeys(codec.tasks, 0.0)
    counts = dict.fromkeys(codec.tasks, 0)
    for labels in batches:
        latents, _ = codec.encode(backbone, labels)
        for task, picture in codec.pictures(backbone, latents).items():
            total, count = codec.codes[task].error(picture, labels[task].to(picture.device))
            sums[task] += total
            counts[task] += count
    return {
        task: sums[task] / counts[task] if counts[task] else float("nan") for task in codec.tasks
    }


def _make_code(
    task: Task, num_classes: Mapping[Task, int], depth_range_m: tuple[float, float]
) -> PictureCode:
    kind = TASK_KINDS[task]
    if kind != "classes":
        return PictureCode(kind, range_m=depth_range_m)
    if task not in num_classes:
        raise ConfigError(
            f"num_classes: wanted that of {task}, found {dict(num_classes)}; add the task's"
        )
    return PictureCode(kind, colours=make_palette(num_classes[task]))


def _copy_decoder(vae: Any) -> nn.Sequential:
    """Copy what comes after the latents of an ``AutoencoderKL``, in float32, to be trained."""
    layers = [each for each in (vae.post_quant_conv, vae.decoder) if each is not None]
    return nn.Sequential(*copy.deepcopy(layers)).float().requires_grad_()
