"""One optimisation step on one batch: of Eq. 6, of Eq. 7, or of a creator's own loss."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from perception.creators.protocol import CreatorNetwork
from perception.methods.protocol import supervised_loss
from schemas.errors import NotFiniteError

if TYPE_CHECKING:
    from perception.diffusion.backbone import DiffusionBackbone
    from perception.diffusion.moments import MomentsCache
    from sources.batches import Batch
    from trainers.learner import Learned, Learner
    from trainers.ranks import Ranks


def step_generator(seed: int, stage: str, step: int, rank: int) -> torch.Generator:
    """Make the source of everything random in one step of one rank.

    It depends on nothing else, so a restored stage draws what the uninterrupted one would have.
    """
    text = f"{seed}/{stage}/{step}/{rank}".encode()
    digest = hashlib.blake2b(text, digest_size=8, person=b"train-step").digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def train_step(
    learner: Learner,
    batch: Batch,
    *,
    backbone: DiffusionBackbone,
    moments: MomentsCache,
    ranks: Ranks,
    learning_rate: float,
    generator: torch.Generator,
    clip_grad_norm: float | None = None,
) -> dict[str, float]:
    """Change the exploitation weights by one step; the creation weights are not touched.

    Real and synthetic images of the batch count alike: Eq. 7 with L_syn of the form of L_sup. With
    several ranks gradients, loss and float buffers are averaged over them, so that all ranks hold
    equal weights after every step.

    Args:
        learner: Weights and optimiser; the counts are the caller's business.
        learning_rate: For this step; a group's ``lr_factor`` multiplies it.
        clip_grad_norm: Greatest norm of the gradient of all parameters together, averaged over
            ranks; a longer one is shortened to it. None: no limit.

    Returns:
        ``loss`` (mean over ranks), ``grad_norm`` (before it is shortened), and ``loss_<task>``, or
        ``loss_<part>`` of a creator, of this rank.

    Raises:
        NotFiniteError: If loss or gradient is not finite on any rank; no weight has changed then.
    """
    learned, optimizer = learner.exploitation, learner.optimizer
    optimizer.zero_grad(set_to_none=True)
    loss, terms = _loss(learned, batch, backbone, moments, generator)
    loss.backward()
    total = loss.detach().clone()
    gradients = _gradients(learned)
    ranks.average_([total, *gradients, *_float_buffers(learned)])
    grad_norm = float(nn.utils.get_total_norm(gradients))
    if not math.isfinite(float(total)) or not math.isfinite(grad_norm):
        raise NotFiniteError(
            f"wanted a finite loss and gradient, found loss {float(total)} and gradient norm "
            f"{grad_norm} at step {learner.step}; lower the learning rate or look at the samples "
            f"{list(batch.keys)[:4]}"
        )
    if clip_grad_norm is not None and grad_norm > clip_grad_norm:
        torch._foreach_mul_(gradients, clip_grad_norm / grad_norm)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_factor"]
    optimizer.step()
    numbers = {"loss": float(total), "grad_norm": grad_norm}
    return numbers | {f"loss_{task}": value for task, value in terms.items()}


def _loss(
    learned: Learned,
    batch: Batch,
    backbone: DiffusionBackbone,
    moments: MomentsCache,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """Loss of the batch and its parts: the creator's own, or Eq. 6 or Eq. 7 of a method."""
    device = backbone.device
    labels = {task: label.to(device) for task, label in batch.labels.items()}
    if isinstance(learned, CreatorNetwork):
        encoded = moments.encode(backbone, batch.images)
        loss, terms = learned(
            backbone, encoded, labels=labels, captions=batch.captions, generator=generator
        )
        return loss, terms
    known = moments.encode(backbone, batch.images) if learned.reads_diffusion else None
    pyramid = learned.observe(backbone, batch.images, moments=known, generators=generator)
    weights = {task: weight.to(device) for task, weight in batch.weights.items()}
    return supervised_loss(learned, pyramid, labels, weights=weights, generator=generator)


def _gradients(method: nn.Module) -> list[Tensor]:
    """List the gradients; a parameter that the loss does not reach has zeros on every rank."""
    found = []
    for parameter in method.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        found.append(parameter.grad)
    return found


def _float_buffers(method: nn.Module) -> list[Tensor]:
    return [buffer for buffer in method.buffers() if buffer.is_floating_point()]
