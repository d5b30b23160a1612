"""Training of the starter models, and the models that are shipped."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import CLIPTokenizer

from kit.renderer.caption import parse_caption, vocabulary
from kit.starter.captioner import caption_ids, patch_loss, shift, slot_accuracy
from kit.starter.checkpoint import load_average
from kit.starter.configs import QUERY_TOKENS
from kit.starter.data import Rooms, mirror_caption
from kit.starter.export import folder_bytes
from kit.starter.loop import LoopSettings, learning_rate_factor, make_state, train
from kit.starter.report import psnr_db
from kit.starter.tokenizer import (
    learn_merges,
    make_caption_tokenizer,
    make_clip_tokenizer,
)
from perception.captioner import Blip2Captioner
from perception.diffusion.backbone import load_backbone
from perception.diffusion.features import extract_features
from schemas.errors import NotFiniteError, SourceError, UserError
from storage.samples.codecs import encode_class_ids_png, encode_image_png
from storage.samples.shards import pack_tar

ROOT = Path(__file__).parents[2]
STARTER = ROOT / "starter"
CAPTION = "a red bed on the left and a blue sofa in the middle , white walls , brown floor"


def toy_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def run_toy(work_dir: Path, *, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    model = toy_model()
    settings = LoopSettings(learning_rate=0.05, steps=6, warm_up_steps=2, checkpoint_s=0.0)

    def loss_of(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        if step == stop_at:
            raise KeyboardInterrupt
        inputs = torch.randn(8, 3, generator=generator)
        return {"loss": (model(inputs).float() - inputs.sum(dim=1, keepdim=True)).square().mean()}

    train("toy", make_state(model, settings), loss_of, settings, work_dir)
    averaged = toy_model()
    load_average(work_dir / "toy.safetensors", averaged)
    return {
        **dict(model.named_parameters()),
        **{f"ema.{k}": v for k, v in averaged.named_parameters()},
    }


def test_a_resumed_training_equals_an_unbroken_one(tmp_path):
    unbroken = run_toy(tmp_path / "unbroken")
    for stop_at in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            run_toy(tmp_path / "broken", stop_at=stop_at)
    resumed = run_toy(tmp_path / "broken")
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)
    start = dict(toy_model().named_parameters())
    assert all(not torch.equal(unbroken[name], start[name]) for name in start)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(tmp_path):
    model = toy_model()
    settings = LoopSettings(learning_rate=0.1, steps=1)
    with pytest.raises(NotFiniteError):
        train(
            "toy",
            make_state(model, settings),
            lambda step, generator: {"loss": model(torch.full((1, 3), torch.nan)).sum()},
            settings,
            tmp_path,
        )
    for name, parameter in toy_model().named_parameters():
        assert torch.equal(parameter, dict(model.named_parameters())[name])


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match="toy"):
        load_average(tmp_path / "toy.safetensors", toy_model())


def test_the_learning_rate_rises_and_then_falls_to_zero():
    assert learning_rate_factor(0, 0.0, 10) == pytest.approx(0.1)
    assert learning_rate_factor(50, 0.5, 10) == pytest.approx(0.5)
    assert learning_rate_factor(100, 1.0, 10) == pytest.approx(0.0)


def write_rooms(folder: Path, name: str, count: int, *, with_semseg: bool) -> None:
    samples = []
    for i in range(count):
        members = {
            "image.png": encode_image_png(np.full((8, 8, 3), i, np.uint8)),
            "json": json.dumps({"caption": CAPTION}).encode(),
        }
        if with_semseg:
            members["semseg.png"] = encode_class_ids_png(np.full((8, 8), 2, np.uint8))
        samples.append((f"{name}-{i}", members))
    (folder / f"{name}.tar").write_bytes(pack_tar(samples).data)


def test_rooms_take_up_tars_that_appear_later(tmp_path):
    write_rooms(tmp_path, "a", 2, with_semseg=True)
    rooms = Rooms([str(tmp_path)])
    assert not rooms.refresh()
    write_rooms(tmp_path, "b", 3, with_semseg=False)
    assert rooms.refresh()
    assert rooms.images.shape == (5, 3, 8, 8)
    assert rooms.images[:, 0, 0, 0].tolist() == [0, 1, 0, 1, 2]
    assert rooms.semseg[:, 0, 0].tolist() == [2, 2, 255, 255, 255]
    assert len(rooms.first(2)) == 2


def test_a_folder_without_rooms_is_refused(tmp_path):
    with pytest.raises(SourceError, match="found none"):
        Rooms([str(tmp_path)])


def test_a_mirrored_caption_swaps_sides_and_mirrors_back():
    mirrored = mirror_caption(CAPTION)
    assert mirrored == (
        "a blue sofa in the middle and a red bed on the right , white walls , brown floor"
    )
    assert mirror_caption(mirrored) == CAPTION
    assert mirror_caption("empty room , grey walls") == "empty room , grey walls"


def test_every_word_of_a_caption_is_one_clip_token_and_others_are_spelled():
    tokenizer = make_clip_tokenizer(vocabulary())
    assert tokenizer.tokenize(CAPTION) == [f"{word}</w>" for word in CAPTION.split()]
    spelled = tokenizer("zebra").input_ids
    assert len(spelled) > 3
    assert tokenizer.unk_token_id not in spelled[:-1]


def test_the_clip_vocabulary_does_not_depend_on_the_order_of_words():
    words = vocabulary()
    merges = learn_merges(words)
    assert merges == learn_merges(reversed(words))
    assert learn_merges(["ab", "abc"]) == [("a", "b"), ("a", "b</w>"), ("ab", "c</w>")]


def test_the_captioner_reads_image_slots_start_words_and_end():
    tokenizer = make_caption_tokenizer(vocabulary())
    (row,) = caption_ids(tokenizer, [CAPTION]).tolist()
    words = [token for token in tokenizer.convert_ids_to_tokens(row) if token != "<pad>"]
    assert words == ["<image>"] * QUERY_TOKENS + ["<s>", *CAPTION.split(), "</s>"]


def test_slots_are_scored_by_kind_whatever_the_order_of_objects():
    perfect = slot_accuracy([CAPTION], [CAPTION])
    assert set(perfect.values()) == {1.0}
    answer = "a blue sofa on the left and a red chair on the left , white walls , grey floor"
    found = slot_accuracy([CAPTION], [answer])
    assert found["object"] == 0.5
    assert found["colour"] == 1.0
    assert found["place"] == 0.5
    assert (found["walls"], found["floor"]) == (1.0, 0.0)
    assert found["all"] == pytest.approx(5 / 8)
    assert found["whole_caption"] == 0.0


def test_an_object_too_many_counts_as_wrong_slots():
    answer = CAPTION.replace(" , white", " and a red rug on the left , white")
    assert slot_accuracy([CAPTION], [answer])["object"] == pytest.approx(2 / 3)
    assert slot_accuracy([CAPTION], ["brown brown brown"])["all"] == 0.0


def test_the_patch_loss_is_the_cross_entropy_of_known_maps_only():
    semseg = torch.full((2, 4, 4), 255, dtype=torch.uint8)
    semseg[0] = 3
    logits = torch.zeros(2, 4, 21)
    assert float(patch_loss(logits, semseg, 2)) == pytest.approx(np.log(21))
    assert float(patch_loss(logits, semseg[[1, 1]], 2)) == 0.0


def test_shifting_moves_pixels_and_repeats_the_border():
    image = torch.arange(9).view(1, 3, 3)
    assert shift(image, 1, 0).tolist() == [[[0, 0, 1], [3, 3, 4], [6, 6, 7]]]
    assert shift(image, 0, -1).tolist() == [[[3, 4, 5], [6, 7, 8], [6, 7, 8]]]


def test_psnr_has_its_closed_form():
    images = np.full((2, 4, 4, 3), 100, np.uint8)
    assert psnr_db(images, images + 5) == pytest.approx(10 * np.log10(255**2 / 25))


def test_the_shipped_models_are_small_and_hold_safetensors_only():
    files = [path for path in STARTER.rglob("*") if path.is_file()]
    assert folder_bytes(STARTER) <= 30e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md", ".txt"}


def test_the_shipped_tokenizer_is_the_one_the_training_builds():
    shipped = CLIPTokenizer.from_pretrained(STARTER / "diffusion" / "tokenizer")
    built = make_clip_tokenizer(vocabulary())
    assert shipped.get_vocab() == built.get_vocab()
    assert shipped(CAPTION).input_ids == built(CAPTION).input_ids


def test_the_shipped_captioner_describes_a_held_out_room():
    rooms = Rooms([str(ROOT / "data/rooms/validation-*.tar")]).first(4)
    captioner = Blip2Captioner.load(STARTER / "captioner", local_files_only=True)
    answers = captioner.caption(list(rooms.images.permute(0, 2, 3, 1).numpy()))
    for answer in answers:
        slots = parse_caption(answer)
        assert slots.things or slots.wall or slots.floor, answer


@pytest.mark.slow
def test_the_shipped_backbone_encodes_to_unit_latents_and_gives_25_maps():
    rooms = Rooms([str(ROOT / "data/rooms/validation-*.tar")]).first(16)
    backbone = load_backbone(STARTER / "diffusion", local_files_only=True)
    images = rooms.images.permute(0, 2, 3, 1).numpy()
    pyramid = extract_features(backbone, images, generators=torch.Generator().manual_seed(0))
    assert [len(level) for level in pyramid.maps] == [6, 6, 6, 7]
    assert list(pyramid.sizes) == [(2, 2), (4, 4), (8, 8), (16, 16)]
    assert all(each.isfinite().all() for each in itertools.chain(*pyramid.maps))
    assert backbone.schedule.prediction_type == "v_prediction"
