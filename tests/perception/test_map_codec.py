"""Labels as pictures and as latents, and what comes back."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn import functional

from perception.diffusion.latents import encode_latents, tensor_to_images
from perception.pairs.maps import ROUND_TRIP_MEASURES, MapCodec, round_trip_errors
from perception.pairs.pictures import PictureCode, fill_invalid, make_palette, pool_validity
from perception.seeding import sample_generator
from schemas.errors import ConfigError
from schemas.sample import INVALID_VALUES, TASK_KINDS
from tests.kit.tiny_models import tiny_backbone

RANGE_M = (0.5, 10.0)
TASKS = ("normals", "depth", "semseg", "saliency")
NUM_CLASSES = {"semseg": 21}
CODES = {
    "normals": PictureCode("direction"),
    "depth": PictureCode("distance", range_m=RANGE_M),
    "semseg": PictureCode("classes", colours=make_palette(21)),
    "saliency": PictureCode("probability"),
}


def make_label(task, seed=0, size=32, count=2):
    generator = sample_generator(seed)
    shape = (count, 1, size, size)
    kind = TASK_KINDS[task]
    if kind == "direction":
        return functional.normalize(torch.randn(count, 3, size, size, generator=generator), dim=1)
    if kind == "classes":
        return torch.randint(21, (count, size, size), generator=generator)
    value = torch.rand(shape, generator=generator)
    if kind == "distance":
        return RANGE_M[0] * (RANGE_M[1] / RANGE_M[0]) ** value
    return value


def make_labels(seed=0):
    return {task: make_label(task, seed + i) for i, task in enumerate(TASKS)}


def spoil(label, task, valid):
    """Make a label invalid where asked."""
    value = INVALID_VALUES[TASK_KINDS[task]]
    mask = valid[:, 0] if TASK_KINDS[task] == "classes" else valid
    return torch.where(mask, label, torch.full_like(label, value))


def make_codec(**options):
    settings = {"num_classes": NUM_CLASSES, "depth_range_m": RANGE_M, **options}
    return MapCodec(tiny_backbone(), TASKS, **settings)


@pytest.mark.parametrize("task", TASKS)
def test_a_label_comes_back_from_its_picture(task):
    code, label = CODES[task], make_label(task)
    picture = code.draw(label)
    assert picture.shape == (2, 3, 32, 32)
    assert picture.abs().max() <= 1
    found = code.read(picture)
    if TASK_KINDS[task] == "classes":
        assert torch.equal(found, label)
    else:
        torch.testing.assert_close(found, label, rtol=1e-5, atol=1e-6)
    if TASK_KINDS[task] == "direction":
        lengths = code.read(3 * picture + 0.1).norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones_like(lengths))
    if TASK_KINDS[task] == "distance":
        exact = code.read(code.draw(label.double()))
        torch.testing.assert_close(exact, label.double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("num_classes", [1, 2, 8, 9, 21, 27, 40, 150, 255])
def test_colours_of_classes_are_apart_and_are_read_as_their_classes(num_classes):
    palette = make_palette(num_classes)
    assert palette.shape == (num_classes, 3)
    assert palette.abs().max() <= 1
    side = math.ceil(round(num_classes ** (1 / 3), 6)) if num_classes > 1 else 2
    if num_classes > 1:
        apart = torch.pdist(palette.double()).min()
        assert float(apart) >= 2 / (side - 1) - 1e-6
    code = PictureCode("classes", colours=palette)
    ids = torch.arange(num_classes).reshape(1, 1, -1)
    noise = torch.randn(1, 3, 1, num_classes, generator=sample_generator(0))
    shift = 0.45 * 2 / (side - 1) * functional.normalize(noise, dim=1)
    assert torch.equal(code.read(code.draw(ids) + shift), ids)
    assert torch.equal(palette, make_palette(num_classes)), "fixed"


def test_few_classes_have_the_corners_of_the_cube():
    assert float(torch.pdist(make_palette(2)).min()) == pytest.approx(2 * math.sqrt(3))
    assert (make_palette(8).abs() == 1).all()


def test_a_class_is_sure_at_its_colour_and_unsure_between_two():
    code = CODES["semseg"]
    assert code.class_confidence(code.draw(make_label("semseg"))).min() > 0.99
    first = code.colours[0]
    neighbour = code.colours[(code.colours - first).norm(dim=1).argsort()[1]]
    between = ((first + neighbour) / 2).reshape(1, 3, 1, 1)
    assert float(code.class_confidence(between)) == pytest.approx(0, abs=1e-5)


def test_distances_beyond_the_range_are_drawn_as_its_ends():
    code = CODES["depth"]
    label = torch.tensor([0.01, 0.5, 10.0, 80.0]).reshape(1, 1, 1, 4)
    wanted = torch.tensor([0.5, 0.5, 10.0, 10.0]).reshape(1, 1, 1, 4)
    torch.testing.assert_close(code.read(code.draw(label)), wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("task", TASKS)
def test_invalid_pixels_are_drawn_as_the_nearest_valid_one(task):
    code, label = CODES[task], make_label(task, size=8)
    valid = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    valid[0, :, :, 3:] = False
    spoiled = spoil(label, task, valid)
    assert torch.equal(code.valid(spoiled), valid)
    drawn, whole = code.draw(spoiled), code.draw(label)
    assert torch.equal(drawn[1], whole[1])
    assert torch.equal(drawn[0, :, :, :3], whole[0, :, :, :3])
    assert torch.equal(drawn[0, :, :, 3:], whole[0, :, :, 2:3].expand(3, 8, 5))


@pytest.mark.parametrize("task", TASKS)
def test_a_label_without_a_valid_pixel_is_grey_and_has_no_loss(task):
    code, label = CODES[task], make_label(task, size=8)
    spoiled = spoil(label, task, torch.zeros(2, 1, 8, 8, dtype=torch.bool))
    assert not code.draw(spoiled).any()
    picture = torch.randn(2, 3, 8, 8, generator=sample_generator(1)).requires_grad_()
    loss = code.loss(picture, spoiled)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not picture.grad.any()
    assert code.error(picture.detach(), spoiled) == (0.0, 0)


def test_filling_keeps_whole_labels_and_empty_ones():
    label = make_label("depth", size=8)
    assert fill_invalid(label, torch.ones(2, 1, 8, 8, dtype=torch.bool)) is label
    assert fill_invalid(label, torch.zeros(2, 1, 8, 8, dtype=torch.bool)) is label


def test_validity_is_pooled_to_the_share_of_valid_pixels():
    valid = torch.zeros(1, 1, 4, 8, dtype=torch.bool)
    valid[..., :2, :4] = True
    valid[..., 0, 4] = True
    found = pool_validity(valid, 4)
    assert torch.equal(found, torch.tensor([8 / 16, 1 / 16]).reshape(1, 1, 1, 2))


@pytest.mark.parametrize("task", TASKS)
def test_a_loss_is_least_at_the_labels_own_picture_and_ignores_invalid_pixels(task):
    code, label = CODES[task], make_label(task, size=8)
    valid = torch.rand(2, 1, 8, 8, generator=sample_generator(2)) > 0.3
    spoiled = spoil(label, task, valid)
    picture = code.draw(label)
    noise = torch.randn(picture.shape, generator=sample_generator(3))
    best = float(code.loss(picture, spoiled))
    assert best == pytest.approx(0, abs=2e-3)
    assert float(code.loss(picture + 0.3 * noise, spoiled)) > best + 0.01
    elsewhere = torch.where(valid, picture, picture + noise)
    assert float(code.loss(elsewhere, spoiled)) == pytest.approx(best, abs=1e-6)


def test_errors_are_those_of_the_measures():
    up = torch.tensor([0.0, 1.0, 0.0]).reshape(1, 3, 1, 1)
    tilted = torch.tensor([0.0, 1.0, 1.0]).reshape(1, 3, 1, 1)
    assert CODES["normals"].error(tilted, up) == (pytest.approx(45.0), 1)
    depth = CODES["depth"]
    half, whole = torch.full((1, 1, 1, 2), 2.0), torch.full((1, 1, 1, 2), 4.0)
    assert depth.error(depth.draw(half), whole) == (pytest.approx(1.0), 2)
    classes = CODES["semseg"]
    ids = torch.tensor([[[0, 1, 2]]])
    assert classes.error(classes.draw(ids), torch.tensor([[[0, 1, 255]]])) == (2.0, 2)
    probability = CODES["saliency"]
    quarter = torch.full((1, 1, 1, 1), 0.25)
    assert probability.error(probability.draw(quarter), quarter + 0.5) == (pytest.approx(0.5), 1)
    assert set(ROUND_TRIP_MEASURES) == set(TASK_KINDS.values())


def test_labels_become_scaled_latents_of_their_pictures_with_their_validity():
    backbone, codec, labels = tiny_backbone(), make_codec(), make_labels()
    labels["depth"][0, :, :4, :4] = 0
    latents, validity = codec.encode(backbone, labels)
    for task in TASKS:
        assert latents[task].shape == (2, 4, 8, 8)
        wanted = encode_latents(backbone, CODES[task].draw(labels[task]), posterior="mode")
        assert torch.equal(latents[task], wanted)
        assert validity[task].shape == (2, 1, 8, 8)
    assert float(validity["depth"][0, 0, 0, 0]) == 0
    assert float(validity["depth"].sum()) == 2 * 64 - 1
    drawn = [
        codec.encode(
            backbone, labels, posterior="sample", generators=[sample_generator(i) for i in (0, 1)]
        )[0]["normals"]
        for _ in range(2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], latents["normals"])


def test_decoders_start_as_the_backbones_own():
    backbone = tiny_backbone()
    tuned, shared = make_codec(), make_codec(is_tuned=False)
    assert not list(shared.parameters())
    assert list(tuned.decoders) == list(TASKS)
    latents, _ = tuned.encode(backbone, make_labels())
    mine, theirs = tuned.pictures(backbone, latents), shared.pictures(backbone, latents)
    for task in TASKS:
        torch.testing.assert_close(mine[task], theirs[task])
    labels = shared.decode(backbone, latents)
    assert {task: each.shape for task, each in labels.items()} == {
        task: each.shape for task, each in make_labels().items()
    }


@pytest.mark.slow
def test_training_moves_the_decoders_alone_and_lowers_every_tasks_round_trip_error():
    backbone, codec = tiny_backbone(), make_codec()
    labels = {
        task: make_label(task, size=1).repeat_interleave(16, -1).repeat_interleave(16, -2)
        for task in TASKS
    }
    frozen = [copy.deepcopy(part.state_dict()) for part in (backbone.vae, backbone.unet)]
    before = round_trip_errors(codec, backbone, [labels])
    latents, _ = codec.encode(backbone, labels)
    optimiser = torch.optim.Adam(codec.parameters(), lr=5e-3)
    for _ in range(40):
        optimiser.zero_grad()
        loss, terms = codec.reconstruction_loss(backbone, latents, labels)
        loss.backward()
        assert all(each.grad is not None for each in codec.parameters())
        optimiser.step()
    assert list(terms) == list(TASKS)
    after = round_trip_errors(codec, backbone, [labels])
    for task in TASKS:
        gain = before[task] - after[task]
        assert (-gain if task == "semseg" else gain) > 0, task
    for part, state in zip((backbone.vae, backbone.unet), frozen, strict=True):
        assert all(torch.equal(each, state[name]) for name, each in part.state_dict().items())
        assert all(each.grad is None for each in part.parameters())


def test_round_trip_errors_are_pooled_over_the_pixels_of_all_batches():
    backbone, codec = tiny_backbone(), make_codec()
    first, second = make_labels(0), make_labels(10)
    second["depth"][:, :, :, :20] = 0
    both = {task: torch.cat([first[task], second[task]]) for task in TASKS}
    together = round_trip_errors(codec, backbone, [both])
    apart = round_trip_errors(codec, backbone, [first, second])
    assert apart == pytest.approx(together, rel=1e-4)
    missing = {**first, "depth": torch.zeros_like(first["depth"])}
    assert math.isnan(round_trip_errors(codec, backbone, [missing])["depth"])


def test_a_mirrored_map_has_other_latents_than_mirrored_latents():
    backbone, codec, label = tiny_backbone(), make_codec(), make_label("normals")
    mirrored = label.flip(-1) * torch.tensor([-1.0, 1, 1]).reshape(1, 3, 1, 1)
    labels = {**make_labels(), "normals": mirrored}
    found = codec.encode(backbone, labels)[0]["normals"]
    plain = codec.encode(backbone, {**labels, "normals": label})[0]["normals"]
    assert (found - plain.flip(-1)).abs().max() > 1e-3


def test_what_a_kind_lacks_is_named():
    with pytest.raises(ConfigError, match="nearest < farthest"):
        make_codec(depth_range_m=(0.0, 10.0))
    with pytest.raises(ConfigError, match="wanted that of semseg"):
        make_codec(num_classes={})
    with pytest.raises(ConfigError, match="between 1 and 255"):
        make_codec(num_classes={"semseg": 256})
    with pytest.raises(ConfigError, match="palette"):
        PictureCode("classes")
    labels = make_labels()
    shared = make_codec(is_tuned=False)
    latents, _ = shared.encode(tiny_backbone(), labels)
    with pytest.raises(ConfigError, match="is_tuned"):
        shared.reconstruction_loss(tiny_backbone(), latents, labels)


def test_pictures_are_pictures_to_the_autoencoder():
    """Whole-range colours survive the way to uint8 images within its rounding."""
    picture = CODES["semseg"].draw(make_label("semseg"))
    images = torch.from_numpy(tensor_to_images(picture)).permute(0, 3, 1, 2).float()
    assert (images / 127.5 - 1 - picture).abs().max() < 1 / 127
