"""Attention maps: shares of tokens that leave the pass alone, and gradients to the tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from perception.diffusion.attention_maps import (
    cross_attentions,
    recorded_attention,
    run_with_context,
)
from perception.diffusion.features import recorded_maps
from schemas.errors import ConfigError
from tests.kit.tiny_models import tiny_backbone

CONTEXT_WIDTH = 16


def make_inputs(batch=2, tokens=5, size=(8, 8)):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(batch, 4, *size, generator=generator)
    return latents, torch.randn(batch, tokens, CONTEXT_WIDTH, generator=generator)


def processors(unet):
    return [id(processor) for processor in unet.attn_processors.values()]


@pytest.mark.parametrize("size", [(8, 8), (11, 9)])
def test_attention_shares_sum_to_one_over_the_tokens(size):
    with torch.no_grad():
        maps, attention = run_with_context(
            tiny_backbone(), *_split(make_inputs(size=size)), attention_levels=(1, 2)
        )
    for level in (1, 2):
        assert attention[level].shape == (2, 5, *maps[level][-1].shape[-2:])
        assert (attention[level] >= 0).all()
        torch.testing.assert_close(
            attention[level].sum(dim=1), torch.ones(2, *maps[level][-1].shape[-2:])
        )


def test_shares_are_the_mean_of_the_softmax_over_heads_and_layers():
    backbone = tiny_backbone()
    latents, context = make_inputs(batch=1)
    layers = cross_attentions(backbone.unet, 2)
    inputs = []
    hooks = [
        layer.register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
        for layer in layers
    ]
    with torch.no_grad():
        _, attention = run_with_context(backbone, latents, 1, context, attention_levels=(2,))
    for hook in hooks:
        hook.remove()
    expected = torch.zeros(5, 4, 4)
    for layer, pixels in zip(layers, inputs, strict=True):
        queries = layer.to_q(pixels[0]).reshape(16, layer.heads, -1)
        keys = layer.to_k(context[0]).reshape(5, layer.heads, -1)
        scores = torch.einsum("nhd,khd->hnk", queries, keys) / queries.shape[-1] ** 0.5
        expected += scores.softmax(dim=-1).mean(dim=0).T.reshape(5, 4, 4) / len(layers)
    torch.testing.assert_close(attention[2][0], expected)


def test_recording_leaves_the_pass_as_it_was_to_the_last_bit():
    backbone = tiny_backbone()
    latents, context = make_inputs()
    with recorded_maps(backbone.unet) as plain:
        backbone.predict(latents, 1, context)
    with torch.no_grad():
        recorded, _ = run_with_context(backbone, latents, 1, context, attention_levels=(1, 2))
    for before, after in zip(plain, recorded, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_gradients_reach_the_tokens_and_no_parameter():
    backbone = tiny_backbone()
    latents, context = make_inputs()
    context.requires_grad_()
    maps, attention = run_with_context(backbone, latents, 1, context, attention_levels=(1,))
    (maps[3][-1].square().mean() + attention[1].square().mean()).backward()
    assert context.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in backbone.unet.parameters())


def test_processors_are_back_after_a_pass_and_after_an_error():
    unet = tiny_backbone().unet
    before = processors(unet)
    with recorded_attention(unet, (1, 2)) as found:
        assert processors(unet) != before
        with pytest.raises(RuntimeError):
            unet(torch.randn(1, 4, 8, 8), 1, encoder_hidden_states=torch.randn(1, 3, 7))
    assert processors(unet) == before
    assert set(found) == {1, 2}
    latents, _ = make_inputs()
    with pytest.raises(RuntimeError):
        run_with_context(tiny_backbone(), latents, 1, torch.randn(2, 3, 7), attention_levels=(1, 2))
    assert processors(unet) == before
    with torch.no_grad():
        run_with_context(tiny_backbone(), *_split(make_inputs()), attention_levels=(1, 2))
    assert processors(unet) == before


def test_a_level_without_cross_attention_is_refused():
    with pytest.raises(ConfigError, match="level 0"):
        cross_attentions(tiny_backbone().unet, 0)


def test_learning_tokens_through_half_precision_is_refused():
    half = replace(tiny_backbone(), dtype=torch.float16)
    latents, context = make_inputs()
    with pytest.raises(ConfigError, match="bfloat16"):
        run_with_context(half, latents, 1, context.requires_grad_())


def test_stable_diffusion_attends_at_all_levels_but_the_lowest():
    unet = tiny_backbone("epsilon", "stable").unet
    assert [len(cross_attentions(unet, level)) for level in (1, 2, 3)] == [5, 5, 5]


def _split(inputs):
    latents, context = inputs
    return latents, 1, context
