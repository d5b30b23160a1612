"""Pair models as creators: their loss is the pair model's, and the trial finds what cannot be."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from perception.build import make_creator_network
from perception.diffusion.latents import encode_moments
from perception.state_file import keys_digest, load_state_bytes, state_to_bytes
from perception.trial import expect_creator_fits
from schemas.config_file import parse_config
from schemas.errors import ConfigError
from tests.kit.models.pyramids import make_labels
from tests.kit.tiny_models import IMAGE_SIZE_PX, tiny_backbone, tiny_diffusion_folder

KINDS = ("jointnet", "mtdiffusion")
CAPTIONS = ["a bed", "a room"]

every_kind = pytest.mark.parametrize("kind", KINDS)


def tree_of(kind="jointnet", **changes):
    stages = {stage: {"steps": 1} for stage in ("warm_up", "self_improve", "creator")}
    tree = {"run": {"url": "memory://run"}, "creator": {"kind": kind}, "training": stages}
    for name, values in changes.items():
        tree[name] = {**tree.get(name, {}), **values}
    return tree


def config_of(kind="jointnet", **changes):
    return parse_config(tree_of(kind, **changes), origin="test")


def make(kind, **changes):
    return make_creator_network(config_of(kind, **changes), tiny_backbone())


def moments():
    pixels = torch.rand(2, 3, IMAGE_SIZE_PX, IMAGE_SIZE_PX, generator=seeded(0)) * 2 - 1
    return encode_moments(tiny_backbone(), pixels)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def labels_of(task="normals"):
    return {task: make_labels(2, side=IMAGE_SIZE_PX)[task]}


def loss_of(network, labels=None, captions=CAPTIONS):
    return network(
        tiny_backbone(),
        moments(),
        labels=labels_of() if labels is None else labels,
        captions=captions,
        generator=seeded(3),
    )


@pytest.mark.slow
@every_kind
def test_steps_on_a_batch_lower_its_loss_and_what_is_published_brings_it_back(kind):
    network = make(kind)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2.0e-3)
    before = network.held_out(
        tiny_backbone(), moments(), labels=labels_of(), captions=CAPTIONS, seed=0
    )
    for _ in range(8):
        optimizer.zero_grad()
        loss, _ = loss_of(network)
        loss.backward()
        optimizer.step()
    after = network.held_out(
        tiny_backbone(), moments(), labels=labels_of(), captions=CAPTIONS, seed=0
    )
    assert set(before) == {"pair_loss", "normals_loss"}
    assert after["pair_loss"] < before["pair_loss"]
    other = make(kind)
    assert keys_digest(other) == keys_digest(network)
    load_state_bytes(other, state_to_bytes(network))
    found, wanted = (float(loss_of(each.eval())[0].detach()) for each in (other, network))
    assert found == pytest.approx(wanted)


@every_kind
def test_an_image_without_a_label_teaches_nothing(kind):
    nothing = {"normals": torch.zeros_like(labels_of()["normals"])}
    loss, _ = loss_of(make(kind), labels=nothing)
    assert float(loss.detach()) == 0


@every_kind
def test_texts_are_learnt_from_and_dropped(kind):
    network = make(kind, training={"creator": {"steps": 1, "text_drop": 1.0}})
    others = ["a sofa"] * 2
    assert torch.equal(loss_of(network)[0], loss_of(network, captions=others)[0])
    network.eval()
    assert not torch.equal(loss_of(network)[0], loss_of(network, captions=others)[0])


@every_kind
def test_the_backbone_is_no_part_of_what_is_trained(kind):
    network = make(kind)
    owned = {id(each) for each in network.parameters()}
    frozen = (*tiny_backbone().unet.parameters(), *tiny_backbone().vae.parameters())
    assert not owned & {id(each) for each in frozen}
    assert copy.deepcopy(network).model.backbone is network.model.backbone


def networks():
    folder = tiny_diffusion_folder()
    return {
        part: json.loads((folder / part / "config.json").read_text()) for part in ("vae", "unet")
    }


@every_kind
@pytest.mark.parametrize("start", [{}, {"known": "nothing", "t_start": 1000}])
def test_a_creator_that_fits_is_made_without_weights(kind, start):
    expect_creator_fits(config_of(kind, creator={"kind": kind, **start}), networks())


def test_noise_that_cannot_stand_for_the_maps_is_refused_before_anything_is_loaded():
    creator = {"kind": "mtdiffusion", "known": "nothing", "t_start": 1000}
    config = config_of(creator=creator, pairs={"mtdiffusion": {"carried": "beta", "strength": 1.0}})
    with pytest.raises(ConfigError, match="carried share at the last timestep"):
        make_creator_network(config, tiny_backbone())


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"creator": {"kind": "halfway", "known": "pair"}}, "makes images alone"),
        ({"creator": {"known": "nothing"}}, "set t_start to 1000"),
        ({"creator": {"known": "labels"}}, "set t_start to 1000"),
        ({"creator": {"sampler": "dpmsolver++"}}, "set them to ddim and 0"),
        ({"creator": {"eta": 0.5}}, "set them to ddim and 0"),
        ({"training": {"creator": None}}, "add training.creator.steps"),
        ({"training": {"creator": {"steps": 1, "tuning": "full"}}}, "remove it, section pairs"),
        ({"method": {"tasks": ["normals", "depth"]}}, "set creator.kind to mtdiffusion"),
        ({"labelling": {"origin": "given"}}, "creator.known = pair"),
        (
            {
                "labelling": {"origin": "creator"},
                "creator": {"known": "labels", "t_start": 1000},
                "plan": {"rounds": 1},
            },
            "set labelling.origin to given",
        ),
        ({"labelling": {"origin": "creator"}}, "plan.rounds = 3"),
        ({"labelling": {"origin": "agreed"}, "creator": {"kind": "halfway"}}, "no maps"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(changes, wanted):
    tree = tree_of()
    for name, values in changes.items():
        tree[name] = {**tree.get(name, {}), **values}
    with pytest.raises(ConfigError) as refused:
        parse_config(tree, origin="test")
    assert wanted in " ".join(str(refused.value).split())


def test_options_of_pairs_are_part_of_the_recipe_of_such_runs_alone():
    def recipe(**changes):
        return config_of(**changes).recipe_hash

    pairs = {"map_decoder": "shared"}
    assert recipe() != recipe(pairs=pairs)
    assert recipe(kind="halfway") == recipe(kind="halfway", pairs=pairs)
