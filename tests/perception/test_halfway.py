"""Halfway synthesis with a tiny random model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from perception.diffusion.halfway import (
    bind_prompt,
    denoise,
    synthesize_gaussian,
    synthesize_halfway,
    synthesize_latents,
)
from perception.diffusion.latents import decode_images, encode_latents, encode_moments
from perception.diffusion.schedule import NoiseSchedule
from perception.seeding import sample_generator
from perception.shapes import ShapeError
from schemas.config import CreatorSection
from schemas.errors import ConfigError, SampleError
from tests.kit.tiny_models import IMAGE_SIZE_PX, tiny_backbone

PROMPTS = ["a bed", "a sofa and a lamp", ""]
SEEDS = [11, 12, 13]
FEW_STEPS = CreatorSection(num_steps=4)


@pytest.fixture(scope="module")
def images():
    shape = (3, IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def grey_levels_apart(left, right):
    return np.abs(left.astype(int) - right.astype(int)).max()


def test_without_noise_halfway_synthesis_is_the_autoencoders_round_trip(images):
    backbone = tiny_backbone()
    almost_clean = NoiseSchedule(
        alpha_bar=1 - torch.linspace(1e-10, 1e-9, 1000, dtype=torch.float64),
        prediction_type="v_prediction",
        final_alpha_bar=1 - 1e-10,
    )
    backbone = dataclasses.replace(backbone, schedule=almost_clean)
    settings = CreatorSection(num_steps=3)
    latents = synthesize_latents(
        backbone, images, PROMPTS, settings=settings, seeds=SEEDS, posterior="mode"
    )
    made = decode_images(backbone, latents)
    round_trip = decode_images(backbone, encode_latents(backbone, images, posterior="mode"))
    assert grey_levels_apart(made, round_trip) <= 1


def test_the_earlier_the_start_the_closer_to_the_round_trip(images):
    backbone = tiny_backbone("epsilon")
    clean = encode_latents(backbone, images, posterior="mode")
    distances = []
    for t_start in (1, 50, 300, 600):
        made = synthesize_latents(
            backbone,
            images,
            PROMPTS,
            settings=CreatorSection(t_start=t_start, num_steps=1),
            seeds=SEEDS,
            posterior="mode",
            spacing="trailing",
        )
        distances.append((made - clean).square().mean().sqrt().item())
    assert distances == sorted(distances)
    # At T = 1 noise of standard deviation 0.042 comes in and a prediction of it goes out.
    assert distances[0] < 0.15


def test_the_same_seed_gives_the_same_image_and_another_seed_another(images):
    backbone = tiny_backbone()
    first, again = (
        synthesize_halfway(backbone, images, PROMPTS, settings=FEW_STEPS, seeds=SEEDS)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)
    other = synthesize_halfway(backbone, images, PROMPTS, settings=FEW_STEPS, seeds=[1, 2, 3])
    assert grey_levels_apart(first, other) > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        FEW_STEPS,
        FEW_STEPS.model_copy(update={"eta": 1.0}),
        FEW_STEPS.model_copy(update={"guidance_scale": 3.0}),
        FEW_STEPS.model_copy(update={"sampler": "dpmsolver++"}),
        FEW_STEPS.model_copy(update={"t_start": 1000}),
    ],
    ids=["ddim", "eta", "guidance", "dpm-solver", "pure-noise"],
)
def test_a_samples_result_does_not_depend_on_its_batch(images, settings):
    backbone = tiny_backbone()
    together = synthesize_latents(backbone, images, PROMPTS, settings=settings, seeds=SEEDS)
    for i in range(3):
        alone = synthesize_latents(
            backbone, images[i : i + 1], PROMPTS[i : i + 1], settings=settings, seeds=SEEDS[i:][:1]
        )
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-3, atol=1e-4)


def test_moments_encoded_before_give_the_same_images(images):
    backbone = tiny_backbone()
    moments = encode_moments(backbone, images)
    assert len(moments) == 3
    from_moments = synthesize_halfway(backbone, moments, PROMPTS, settings=FEW_STEPS, seeds=SEEDS)
    from_images = synthesize_halfway(backbone, images, PROMPTS, settings=FEW_STEPS, seeds=SEEDS)
    np.testing.assert_array_equal(from_moments, from_images)


def test_prompts_may_be_given_as_embeddings(images):
    backbone = tiny_backbone()
    embeddings = backbone.embed_text(PROMPTS)
    made = [
        synthesize_halfway(backbone, images, prompts, settings=FEW_STEPS, seeds=SEEDS)
        for prompts in (PROMPTS, embeddings)
    ]
    np.testing.assert_array_equal(*made)


def test_the_caption_changes_the_image(images):
    backbone = tiny_backbone()
    made = [
        synthesize_latents(backbone, images, prompts, settings=FEW_STEPS, seeds=SEEDS)
        for prompts in (PROMPTS, ["a chair"] * 3)
    ]
    assert not torch.allclose(*made)


def test_guidance_mixes_the_empty_and_the_given_prompt_linearly():
    backbone = tiny_backbone()
    latents = torch.randn(2, 4, 8, 8, generator=sample_generator(0))
    context = backbone.embed_text(["a bed", "a lamp"])
    empty = backbone.embed_text(["", ""])
    conditional, unconditional = (backbone.predict(latents, 300, each) for each in (context, empty))
    guided = bind_prompt(backbone, context, guidance_scale=2.5)(latents, 300)
    expected = unconditional + 2.5 * (conditional - unconditional)
    torch.testing.assert_close(guided, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_both_samplers_land_close_with_many_steps(images):
    backbone = tiny_backbone()
    exact = CreatorSection(num_steps=80)
    fast = CreatorSection(num_steps=20, sampler="dpmsolver++")
    made = [
        synthesize_latents(
            backbone, images[:1], ["a bed"], settings=settings, seeds=[5], spacing=spacing
        )
        for settings, spacing in ((exact, "trailing"), (fast, None))
    ]
    spread = made[0].std().item()
    assert (made[0] - made[1]).square().mean().sqrt().item() < 0.05 * spread


def test_the_start_of_pure_noise_uses_nothing_of_the_image(images):
    backbone = tiny_backbone()
    settings = CreatorSection(t_start=1000, num_steps=4)
    made = [
        synthesize_halfway(backbone, source, PROMPTS, settings=settings, seeds=SEEDS)
        for source in (images, 255 - images)
    ]
    np.testing.assert_array_equal(*made)
    size = (IMAGE_SIZE_PX, IMAGE_SIZE_PX)
    alone = synthesize_gaussian(
        backbone, PROMPTS, image_size_px=size, settings=settings, seeds=SEEDS
    )
    np.testing.assert_array_equal(made[0], alone)


def test_the_gaussian_creator_makes_images_of_the_asked_size_from_prompts_alone():
    backbone = tiny_backbone()
    settings = CreatorSection(t_start=1000, num_steps=4)
    made = synthesize_gaussian(
        backbone, ["a bed", ""], image_size_px=(32, 48), settings=settings, seeds=[1, 2]
    )
    assert (made.shape, made.dtype) == ((2, 32, 48, 3), np.uint8)
    with pytest.raises(ConfigError, match="t_start"):
        synthesize_gaussian(backbone, [""], image_size_px=(32, 32), settings=FEW_STEPS, seeds=[1])


def test_denoising_leaves_its_input_and_takes_no_gradient():
    backbone = tiny_backbone()
    noisy = torch.randn(1, 4, 8, 8, requires_grad=True)
    before = noisy.detach().clone()
    clean = denoise(backbone, noisy, [""], settings=FEW_STEPS)
    assert torch.equal(noisy.detach(), before)
    assert not clean.requires_grad


def test_images_that_are_not_finite_are_a_sample_error():
    latents = torch.zeros(2, 4, 8, 8)
    latents[1, 0, 0, 0] = torch.nan
    with pytest.raises(SampleError, match=r"\[1\]") as caught:
        decode_images(tiny_backbone(), latents)
    assert caught.value.reason == "not_finite"


def test_numbers_of_images_prompts_and_seeds_must_agree(images):
    with pytest.raises(ShapeError, match="3, 2 and 3"):
        synthesize_halfway(tiny_backbone(), images, PROMPTS[:2], settings=FEW_STEPS, seeds=SEEDS)


def test_image_sizes_must_fit_the_autoencoder(images):
    with pytest.raises(ShapeError, match="divisible by 4"):
        encode_moments(tiny_backbone(), images[:, :30])
    with pytest.raises(ShapeError, match="one size"):
        encode_moments(tiny_backbone(), [images[0], images[1, :28]])
    with pytest.raises(ShapeError, match="uint8"):
        encode_moments(tiny_backbone(), images.astype(np.float64))


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"t_start": 0}, "t_start"),
        ({"num_steps": 601}, "num_steps"),
        ({"sampler": "euler"}, "sampler"),
        ({"guidance_scale": 0.5}, "guidance_scale"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"eta": 1.5}, "eta"),
        ({"eta": 0.5, "sampler": "dpmsolver++"}, "eta"),
    ],
)
def test_wrong_settings_are_refused_by_name(wrong, word):
    with pytest.raises(ValidationError, match=word):
        CreatorSection(**wrong)
