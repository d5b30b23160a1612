"""Pair models: how they learn, predict and create, beyond what every method fulfils."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch

from perception.build import make_method
from perception.diffusion.latents import LatentMoments, decode_images, encode_moments
from perception.pairs.aggregated import draw_carried
from perception.pairs.network import PairLatents
from perception.pairs.noised import draw_noised
from perception.seeding import draw_noise, sample_generator
from schemas.config import CreatorSection
from schemas.config_file import parse_config
from schemas.config_method import SCORING_FIELDS
from schemas.errors import ConfigError, SampleError
from schemas.sample import INVALID_VALUES, TASK_KINDS, TASKS
from tests.kit.models.pyramids import make_labels
from tests.kit.tiny_models import IMAGE_SIZE_PX, tiny_backbone
from trainers.learner import parameter_groups

NAMES = ("jointnet", "mtdiffusion")
SIZE = (IMAGE_SIZE_PX, IMAGE_SIZE_PX)
SETTINGS = CreatorSection(num_steps=2)

every_model = pytest.mark.parametrize("name", NAMES)


def make(name, tasks=("normals",), *, moved=True, **pairs):
    tree = {
        "run": {"url": "memory://run"},
        "method": {"name": name, "tasks": list(tasks), "num_classes": 5},
        "pairs": {"predict_samples": 2, "predict_steps": 2} | pairs,
        "training": {"warm_up": {"steps": 1}, "self_improve": {"steps": 1}},
    }
    made = make_method(parse_config(tree, origin="test"), tiny_backbone()).eval()
    if moved:
        generator = sample_generator(1)
        with torch.no_grad():
            for value in made.network.parameters():
                value.add_(torch.randn(value.shape, generator=generator), alpha=0.02)
    return made


@functools.cache
def model(name):
    """A model off its start; shared, so do not change it."""
    return make(name)


def images(count=2):
    coarse = torch.rand(count, 3, 4, 4, generator=sample_generator(3))
    return torch.nn.functional.interpolate(coarse, size=SIZE, mode="bilinear") * 2 - 1


def moments(count=2):
    return encode_moments(tiny_backbone(), images(count))


def labels_of(tasks=("normals",), count=2):
    found = make_labels(count, side=IMAGE_SIZE_PX)
    return {task: found[task] for task in tasks}


def observe(method, count=2, **choices):
    generators = [sample_generator(i) for i in range(count)]
    return method.observe(tiny_backbone(), images(count), generators=generators, **choices)


def loss_of(method, labels, weights=None):
    loss, terms = method(observe(method), labels, weights, sample_generator(5))
    return float(loss.detach()), terms


def create(method, known="nothing", settings=SETTINGS, count=2, **choices):
    given = {
        "nothing": {"image_size": SIZE},
        "image": {"moments": moments(count)},
        "labels": {"labels": labels_of(method.tasks, count)},
        "pair": {"moments": moments(count), "labels": labels_of(method.tasks, count)},
    }[known]
    return method.create(
        ["a bed", "a room"][:count],
        seeds=list(range(count)),
        settings=settings,
        known=known,
        **(given | choices),
    )


def test_a_labelled_batch_has_the_loss_of_the_joint_network():
    method, labels = make("jointnet", map_decoder="shared"), labels_of()
    latents, context = observe(method).maps[0]
    maps, validity = method.codec.encode(tiny_backbone(), labels)
    pair = draw_noised(
        PairLatents(latents, maps), tiny_backbone().schedule, generators=sample_generator(5)
    )
    wanted, terms = method.network.training_loss(pair, context, map_weights=validity)
    found, of_tasks = loss_of(method, labels)
    assert found == pytest.approx(float(wanted.detach()), rel=1e-6)
    assert of_tasks == {"normals": pytest.approx(terms["normals"], rel=1e-6)}


def test_a_labelled_batch_has_the_loss_of_the_aggregated_network():
    tasks = ("normals", "semseg")
    method, labels = make("mtdiffusion", tasks, map_decoder="shared"), labels_of(tasks)
    latents, context = observe(method).maps[0]
    maps, validity = method.codec.encode(tiny_backbone(), labels)
    generator = sample_generator(5)
    timestep = torch.randint(1000, (2,), generator=generator)
    noise = draw_noise(latents.shape, generators=generator)
    wanted, terms = method.network.loss(
        PairLatents(latents, maps),
        context,
        validity=validity,
        is_carried=draw_carried(2, drop_maps=0.5, generator=generator),
        noise=noise,
        timestep=timestep,
    )
    found, of_tasks = loss_of(method, labels)
    assert found == pytest.approx(float(wanted.detach()), rel=1e-6)
    assert of_tasks == {task: pytest.approx(terms[task], rel=1e-6) for task in tasks}


@every_model
def test_tuned_decoders_add_their_loss_on_a_share_of_the_batch(name):
    labels = labels_of()
    shared, tuned = (make(name, map_decoder=decoder) for decoder in ("shared", "tuned"))
    heavy = make(name, decoder_weight=3.0, decoder_share=1.0)
    latents, _ = tuned.codec.encode(tiny_backbone(), labels)
    for method, count in ((tuned, 1), (heavy, 2)):
        added, _ = method.codec.reconstruction_loss(
            tiny_backbone(),
            {"normals": latents["normals"][:count]},
            {"normals": labels["normals"][:count]},
        )
        difference = loss_of(method, labels)[0] - loss_of(shared, labels)[0]
        weight = method.options.decoder_weight
        assert difference == pytest.approx(weight * float(added), rel=1e-4)


@every_model
def test_only_ratios_of_the_weights_of_pixels_count_and_weights_of_zero_teach_nothing(name):
    method, labels = make(name, map_decoder="shared"), labels_of()
    plain, terms = loss_of(method, labels)
    weights = torch.full((2, 1, *SIZE), 0.5)
    halved, of_halved = loss_of(method, labels, {"normals": weights})
    assert (halved, of_halved["normals"]) == pytest.approx((plain, terms["normals"]), rel=1e-5)
    assert loss_of(method, labels, {"normals": torch.zeros_like(weights)})[0] == 0


@every_model
def test_a_state_holds_the_trained_tensors_alone_and_a_copy_shares_the_backbone(name):
    method, backbone = model(name), tiny_backbone()
    assert set(method.state_dict()) == {key for key, _ in method.named_parameters()}
    frozen = {id(each) for net in (backbone.unet, backbone.vae) for each in net.parameters()}
    assert not frozen & {id(each) for each in method.parameters()}
    copied = copy.deepcopy(method)
    assert copied.backbone is backbone
    assert not {id(each) for each in copied.parameters()} & {id(e) for e in method.parameters()}
    pyramid = observe(method)
    found, wanted = (each.predict(pyramid, SIZE).labels["normals"] for each in (copied, method))
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("factor", [0.0, 0.1])
def test_the_learner_knows_the_groups_of_the_network(factor):
    method = make("jointnet", jointnet={"rgb_lr_factor": factor})
    groups = parameter_groups(method)
    ordered = [id(each) for group in groups for each in group["params"]]
    assert ordered == [id(each) for each in method.parameters()]
    ours = {id(each): group["lr_factor"] for group in groups for each in group["params"]}
    rgb = {id(each) for each in method.network.rgb.parameters()}
    assert bool(rgb) == (factor > 0)
    assert all(rate == (factor if each in rgb else 1.0) for each, rate in ours.items())


@pytest.mark.parametrize("task", [task for task in TASKS if task != "normals"])
def test_jointnet_makes_the_map_of_any_one_task(task):
    method = make("jointnet", (task,))
    loss, terms = loss_of(method, labels_of((task,)))
    assert loss > terms[task] > 0
    found = method.predict(observe(method), (16, 24))
    assert found.labels[task].shape[-2:] == (16, 24)


@every_model
def test_a_prediction_depends_on_the_images_seed_and_caption(name):
    method = model(name)
    plain = observe(method)
    again = observe(method, captions=["", ""])
    assert torch.equal(plain.maps[0][1], again.maps[0][1])
    found = method.predict(plain, SIZE).labels["normals"]
    told = method.predict(observe(method, captions=["a bed", ""]), SIZE).labels["normals"]
    assert not torch.equal(found[0], told[0])
    torch.testing.assert_close(found[1], told[1])
    other = type(plain)(plain.maps, plain.images, plain.seeds + torch.tensor([1, 0]))
    reseeded = method.predict(other, SIZE).labels["normals"]
    assert not torch.equal(found[0], reseeded[0])
    assert torch.equal(found[1], reseeded[1])


@every_model
def test_one_sample_looks_sure_and_several_tell_their_spread(name):
    one, many = (make(name, predict_samples=count) for count in (1, 3))
    pyramid = observe(one)
    assert float(one.predict(pyramid, SIZE).reliability["normals"].max()) < 0.1
    assert float(many.predict(pyramid, SIZE).reliability["normals"].mean()) > 0.1


def read(carried="bump", steps=2, **options):
    method = make("mtdiffusion", mtdiffusion={"carried": carried} | options, predict_steps=steps)
    return method.predict(observe(method), SIZE).labels["normals"]


def test_reading_once_is_refining_once_and_refining_needs_something_carried():
    once = read(predict="one_pass", steps=5)
    assert torch.equal(once, read(predict="refine", steps=1))
    assert not torch.equal(once, read(predict="refine"))
    assert torch.equal(read("none"), read("none", predict="refine"))
    assert not torch.equal(once, read(predict="repaint"))
    assert not torch.equal(once, read(read_timestep=300))


SCORED_WITH = {
    "predict_samples": 3,
    "predict_steps": 3,
    "mtdiffusion": {"predict": "repaint", "read_timestep": 7},
}


@every_model
def test_what_may_be_scored_with_changes_neither_weights_nor_loss(name):
    plain, other = make(name), make(name, **SCORED_WITH)
    named = {"predict_samples", "predict_steps", "mtdiffusion.predict", "mtdiffusion.read_timestep"}
    assert {f"pairs.{field}" for field in named} == {
        field for field in SCORING_FIELDS if field.startswith("pairs")
    }
    ours, theirs = plain.state_dict(), other.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert loss_of(plain, labels_of())[0] == loss_of(other, labels_of())[0]


@every_model
def test_pairs_are_made_whatever_is_known(name):
    method = model(name)
    for known in ("nothing", "pair", "labels", "image"):
        made, maps = create(method, known)
        assert (made.dtype, made.shape) == (np.uint8, (2, *SIZE, 3))
        assert maps["normals"].shape == (2, 3, *SIZE)
        length = torch.linalg.vector_norm(maps["normals"], dim=1)
        torch.testing.assert_close(length, torch.ones_like(length))


@every_model
def test_known_labels_come_back_as_given_and_a_known_image_as_the_autoencoder_knows_it(name):
    method = model(name)
    _, maps = create(method, "labels")
    assert torch.equal(maps["normals"], labels_of()["normals"])
    made, _ = create(method, "image")
    backbone = tiny_backbone()
    kept = decode_images(backbone, moments().mean * backbone.scaling_factor)
    np.testing.assert_array_equal(made, kept)


@every_model
def test_a_pair_noised_a_little_stays_what_it_was(name):
    method, backbone = model(name), tiny_backbone()
    # The random autoencoder's own latents are smaller than the least noise.
    mean = torch.randn(2, 4, 8, 8, generator=sample_generator(7)) / backbone.scaling_factor
    loud = LatentMoments(mean=mean, std=torch.zeros_like(mean))
    real = decode_images(backbone, mean * backbone.scaling_factor).astype(float)
    errors = []
    for t_start in (2, 300, 1000):
        settings = CreatorSection(t_start=t_start, num_steps=2)
        made, _ = create(method, "pair", settings, moments=loud)
        errors.append(np.abs(made - real).mean())
    assert errors[0] < errors[1] < errors[2]
    assert errors[0] < 0.2 * errors[2]


@every_model
def test_a_pair_is_made_the_same_by_itself_and_in_a_batch(name):
    both, maps = create(model(name))
    alone, map_alone = create(model(name), count=1)
    assert np.abs(alone[0].astype(int) - both[0]).max() <= 1
    torch.testing.assert_close(map_alone["normals"][0], maps["normals"][0], atol=1e-3, rtol=0)
    assert not np.array_equal(both[0], both[1])


def test_what_a_pair_is_made_from_has_to_be_given():
    method = model("jointnet")
    with pytest.raises(ConfigError, match="known = pair: wanted moments and labels"):
        create(method, "pair", moments=None)
    with pytest.raises(ConfigError, match="known = nothing: wanted image_size"):
        create(method, image_size=None)
    labels = labels_of()
    labels["normals"][1] = INVALID_VALUES[TASK_KINDS["normals"]]
    with pytest.raises(SampleError, match=r"images \[1\] of a batch of 2 have no normals"):
        create(method, "labels", labels=labels)


def test_pairs_are_refused_where_the_sampler_or_the_noise_does_not_serve():
    settings = CreatorSection(num_steps=2, sampler="dpmsolver++")
    with pytest.raises(ConfigError, match=r"creator.sampler = dpmsolver\+\+"):
        create(model("jointnet"), settings=settings)
    method = make("mtdiffusion", mtdiffusion={"carried": "reverting", "strength": 1.0})
    with pytest.raises(ConfigError, match="divide the strength by"):
        method.expect_creates(SETTINGS, "nothing")
    with pytest.raises(ConfigError, match="divide the strength by"):
        method.expect_creates(CreatorSection(t_start=1000), "pair")
    method.expect_creates(SETTINGS, "pair")
    create(method, "labels")
    model("mtdiffusion").expect_creates(SETTINGS, "nothing")
