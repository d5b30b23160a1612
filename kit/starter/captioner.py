"""Train the starter's BLIP-2 on rendered rooms, end to end, and score its captions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kit.renderer.caption import CaptionSlots, Thing, parse_caption
from kit.starter.checkpoint import load_average
from kit.starter.configs import QUERY_TOKENS, make_captioner
from kit.starter.data import IGNORE, Rooms, mirror_caption, to_model_range
from kit.starter.loop import LoopSettings, make_state, train
from kit.starter.tokenizer import IMAGE, MAX_TOKENS
from sources.rooms_classes import CLASSES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import Blip2ForConditionalGeneration, PreTrainedTokenizerFast

STAGE = "captioner"
BATCH_SIZE = 64
PATCH_WEIGHT = 0.3
REFRESH_EVERY = 100
SHIFT_PX = 3
NO_TARGET = -100


class CaptionTrainee(nn.Module):
    """The captioner, with a helper head that names the classes in each image patch.

    The helper teaches the vision tower where class maps are known; it is not exported.
    """

    def __init__(self, captioner: Blip2ForConditionalGeneration) -> None:
        super().__init__()
        self.captioner = captioner
        vision = captioner.config.vision_config
        self.patch_px = int(vision.patch_size)
        self.patch_classes = nn.Linear(vision.hidden_size, len(CLASSES))

    def forward(self, images: Tensor, token_ids: Tensor, semseg: Tensor) -> dict[str, Tensor]:
        """Return the losses of a batch.

        Args:
            images: float32 [B, 3, H, W] in [-1, 1].
            token_ids: int64 [B, L], see `caption_ids`.
            semseg: uint8 class ids [B, H, W], 255 where unknown.

        Returns:
            Scalars "loss" (weighted sum), "caption" (cross-entropy per token) and "patch".
        """
        config = self.captioner.config
        attention_mask = token_ids != config.text_config.pad_token_id
        labels = token_ids.masked_fill(~attention_mask, NO_TARGET)
        labels[:, : QUERY_TOKENS + 1] = NO_TARGET
        output = self.captioner(
            pixel_values=images,
            input_ids=token_ids,
            attention_mask=attention_mask.long(),
            labels=labels,
        )
        patches = output.vision_outputs.last_hidden_state[:, 1:]
        patch = patch_loss(self.patch_classes(patches).float(), semseg, self.patch_px)
        caption = output.loss.float()
        return {"loss": caption + PATCH_WEIGHT * patch, "caption": caption, "patch": patch}


def patch_loss(logits: Tensor, semseg: Tensor, patch_px: int) -> Tensor:
    """Return the cross-entropy between patch predictions and the shares of classes in each patch.

    Args:
        logits: float32 [B, P, C], patches row by row.
        semseg: uint8 class ids [B, H, W]; an image whose first pixel is 255 has no target.

    Returns:
        A scalar; zero if no image has a target.
    """
    known = semseg[:, 0, 0] != IGNORE
    if not bool(known.any()):
        return logits.sum() * 0.0
    shares = F.one_hot(semseg[known].long(), logits.shape[-1]).permute(0, 3, 1, 2).float()
    target = F.avg_pool2d(shares, patch_px).flatten(2).transpose(1, 2)
    return -(target * logits[known].log_softmax(dim=-1)).sum(dim=-1).mean()


def caption_ids(tokenizer: PreTrainedTokenizerFast, captions: Sequence[str]) -> Tensor:
    """Return what the language model reads in training: image slots, start, caption, end, padding.

    Returns:
        int64 [B, L], L the same for every call.
    """
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    ids = torch.full((len(captions), QUERY_TOKENS + MAX_TOKENS), tokenizer.pad_token_id)
    ids[:, :QUERY_TOKENS] = image
    for row, caption in zip(ids, captions, strict=True):
        words = tokenizer(caption).input_ids
        sentence = [tokenizer.bos_token_id, *words, tokenizer.eos_token_id]
        row[QUERY_TOKENS : QUERY_TOKENS + len(sentence)] = torch.tensor(sentence)
    return ids


@dataclass
class CaptionedRooms:
    """Rooms with tokenised captions, of the view and of its mirror image.

    Attributes:
        rooms: The rooms.
        tokenizer: Of the captions.
        token_ids: int64 [N, 2, L]: as seen, mirrored.
    """

    rooms: Rooms
    tokenizer: PreTrainedTokenizerFast
    token_ids: Tensor

    @classmethod
    def of(cls, rooms: Rooms, tokenizer: PreTrainedTokenizerFast) -> CaptionedRooms:
        """Tokenise all rooms there are."""
        return cls(rooms, tokenizer, _token_pairs(tokenizer, rooms.captions))

    def refresh(self) -> None:
        """Take up rooms that appeared since the last call."""
        if self.rooms.refresh():
            new = self.rooms.captions[len(self.token_ids) :]
            self.token_ids = torch.cat([self.token_ids, _token_pairs(self.tokenizer, new)])

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a batch, half of it mirrored, each image moved by up to `SHIFT_PX` pixels.

        Returns:
            Images [B, 3, H, W] in [-1, 1], token ids [B, L], class ids [B, H, W].
        """
        chosen = torch.randint(len(self.rooms), (BATCH_SIZE,), generator=generator)
        flipped = torch.rand(BATCH_SIZE, generator=generator) < 0.5
        images, semseg = self.rooms.images[chosen], self.rooms.semseg[chosen]
        images[flipped] = images[flipped].flip(-1)
        semseg[flipped] = semseg[flipped].flip(-1)
        dx, dy = torch.randint(-SHIFT_PX, SHIFT_PX + 1, (2,), generator=generator).tolist()
        images, semseg = shift(images, dx, dy), shift(semseg, dx, dy)
        return to_model_range(images), self.token_ids[chosen, flipped.long()], semseg


def shift(images: Tensor, dx: int, dy: int) -> Tensor:
    """Move images [..., H, W] right by `dx` and down by `dy` pixels, repeating the border."""
    height, width = images.shape[-2:]
    rows = (torch.arange(height) - dy).clamp(0, height - 1)
    columns = (torch.arange(width) - dx).clamp(0, width - 1)
    return images[..., rows, :][..., columns]


def train_captioner(
    rooms: Rooms, tokenizer: PreTrainedTokenizerFast, settings: LoopSettings, work_dir: Path
) -> None:
    """Train a captioner, or go on where a checkpoint stands.

    Args:
        rooms: What to train on; looked through for new tars as training goes.
    """
    torch.manual_seed(settings.seed)
    trainee = CaptionTrainee(make_captioner(tokenizer))
    state = make_state(trainee, settings)
    captioned = CaptionedRooms.of(rooms, tokenizer)

    def loss_of(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        if step % REFRESH_EVERY == 0:
            captioned.refresh()
        images, token_ids, semseg = (p.to(settings.device) for p in captioned.draw(generator))
        losses: dict[str, Tensor] = trainee(images, token_ids, semseg)
        return losses

    train(STAGE, state, loss_of, settings, work_dir)


def load_captioner(
    tokenizer: PreTrainedTokenizerFast, work_dir: Path
) -> Blip2ForConditionalGeneration:
    """Return the averaged weights of a work directory's captioner, in eval mode.

    Raises:
        UserError: If none was trained there.
    """
    trainee = CaptionTrainee(make_captioner(tokenizer))
    load_average(work_dir / f"{STAGE}.safetensors", trainee)
    return trainee.captioner


def slot_hits(truth: str, answer: str) -> dict[str, tuple[int, int]]:
    """Count the slots of a caption that an answer names rightly.

    Objects are paired so that most slots agree; an object too many or too few counts as wrong
    slots. Walls and floor count where the truth or the answer states them.

    Returns:
        (right, all) for "object", "colour", "place", "walls" and "floor".
    """
    wanted, found = parse_caption(truth), parse_caption(answer)
    return {
        **_thing_hits(wanted, found),
        "walls": _part_hits(wanted.wall, found.wall),
        "floor": _part_hits(wanted.floor, found.floor),
    }


def slot_accuracy(truths: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """Return the share of right slots by kind, over all kinds ("all") and whole captions."""
    right: dict[str, int] = {}
    total: dict[str, int] = {}
    for truth, answer in zip(truths, answers, strict=True):
        for kind, (hits, slots) in slot_hits(truth, answer).items():
            right[kind] = right.get(kind, 0) + hits
            total[kind] = total.get(kind, 0) + slots
    accuracy = {kind: right[kind] / max(total[kind], 1) for kind in right}
    accuracy["all"] = sum(right.values()) / max(sum(total.values()), 1)
    exact = sum(truth == answer for truth, answer in zip(truths, answers, strict=True))
    accuracy["whole_caption"] = exact / len(truths)
    return accuracy


def _thing_hits(wanted: CaptionSlots, found: CaptionSlots) -> dict[str, tuple[int, int]]:
    slots = max(len(wanted.things), len(found.things))
    few, many = sorted((wanted.things, found.things), key=len)
    pairings = [list(zip(few, order, strict=False)) for order in permutations(many, len(few))]
    best = max(pairings, key=lambda pairs: sum(_agreement(pairs)))
    hits = _agreement(best)
    return {kind: (hits[i], slots) for i, kind in enumerate(("object", "colour", "place"))}


def _agreement(pairs: Sequence[tuple[Thing, Thing]]) -> tuple[int, int, int]:
    return (
        sum(a.name == b.name for a, b in pairs),
        sum(a.colour == b.colour for a, b in pairs),
        sum(a.place == b.place for a, b in pairs),
    )


def _part_hits(wanted: str | None, found: str | None) -> tuple[int, int]:
    return int(wanted is not None and wanted == found), int(wanted is not None or found is not None)


def _token_pairs(tokenizer: PreTrainedTokenizerFast, captions: Sequence[str]) -> Tensor:
    mirrored = [mirror_caption(caption) for caption in captions]
    return torch.stack([caption_ids(tokenizer, captions), caption_ids(tokenizer, mirrored)], dim=1)
