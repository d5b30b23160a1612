"""Convolutions that are told a noise level."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from perception.film import FilmBlock, FilmConv, LevelEmbedding
from tests.kit.models.multi_task import num_parameters


def test_a_level_is_embedded_with_sines_and_cosines_of_learnt_frequencies() -> None:
    torch.manual_seed(0)
    embed = LevelEmbedding(12)
    level = torch.tensor([0.0, -3.5])
    phase = 2 * math.pi * level[:, None] * embed.frequencies
    first, _, last = embed.mlp
    hidden = functional.gelu(first(torch.cat([level[:, None], phase.sin(), phase.cos()], dim=1)))
    torch.testing.assert_close(embed(level), last(hidden))
    assert num_parameters(embed) == 8 + 12 * 12 + 19 * 12


@torch.no_grad()
def test_a_level_scales_and_shifts_each_channel_after_the_norm() -> None:
    torch.manual_seed(0)
    told = FilmConv(4, 6, 3, level_width=5).eval()
    maps, level = torch.randn(2, 4, 7, 7), torch.randn(2, 5)
    factors = told.film(functional.silu(level))
    scale, shift = factors[:, :6, None, None], factors[:, 6:, None, None]
    wanted = told.norm(told.conv(maps)) * (1 + scale) + shift
    torch.testing.assert_close(told(maps, level), wanted)


@torch.no_grad()
def test_without_a_level_s_weights_a_block_is_a_plain_one() -> None:
    torch.manual_seed(0)
    block = FilmBlock(4, level_width=5).eval()
    block.told.film.weight.zero_()
    block.told.film.bias.zero_()
    maps = torch.randn(2, 4, 7, 7)
    wanted = block.project(functional.gelu(block.told.norm(block.told.conv(maps))))
    for level in (torch.zeros(2, 5), torch.randn(2, 5)):
        torch.testing.assert_close(block(maps, level), wanted)


@torch.no_grad()
def test_groups_do_not_see_one_another() -> None:
    torch.manual_seed(0)
    block = FilmBlock(8, level_width=5, groups=2).eval()
    maps, level = torch.randn(1, 8, 5, 5), torch.randn(1, 5)
    other = maps.clone()
    other[:, 4:] = 0
    torch.testing.assert_close(block(maps, level)[:, :4], block(other, level)[:, :4])
    assert not torch.allclose(block(maps, level)[:, 4:], block(other, level)[:, 4:])


def test_a_block_has_the_published_number_of_parameters() -> None:
    width = 16
    assert num_parameters(FilmBlock(width, level_width=width)) == 12 * width**2 + 6 * width
    grouped = FilmBlock(3 * width, level_width=width, groups=3)
    assert num_parameters(grouped) == 3 * (12 * width**2 + 6 * width)
