"""TaskDiffusion's decoder: tasks read one another, levels are weighed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from perception.heads.cross_task_decoder import LevelFusion, TaskExchange


def make_exchange(num_tasks: int = 3, *, width: int = 8, interaction="weights") -> TaskExchange:
    torch.manual_seed(0)
    return TaskExchange(width, 12, num_tasks, interaction=interaction).eval()


def exchanged(exchange: TaskExchange, by_task: Tensor) -> Tensor:
    """What the last convolution reads."""
    seen: list[Tensor] = []
    hook = exchange.leave.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    shared, code, level = torch.randn(2, 8, 4, 4), torch.randn(2, 12, 4, 4), torch.randn(2, 8)
    exchange(shared, by_task, code, level)
    hook.remove()
    return seen[0].unflatten(1, (by_task.shape[1], -1))


@torch.no_grad()
def test_untold_weights_are_a_half_and_every_task_reads_half_the_sum() -> None:
    exchange, by_task = make_exchange(), torch.randn(2, 3, 8, 4, 4)
    for layer in (exchange.weigh.conv, exchange.weigh.film):
        layer.weight.zero_()
        layer.bias.zero_()
    wanted = by_task.sum(dim=1, keepdim=True).expand_as(by_task) / 2
    torch.testing.assert_close(exchanged(exchange, by_task), wanted)


@torch.no_grad()
def test_the_first_index_of_the_weights_is_the_task_that_reads() -> None:
    exchange, by_task = make_exchange(), torch.randn(2, 3, 8, 4, 4)
    for layer in (exchange.weigh.conv, exchange.weigh.film):
        layer.weight.zero_()
        layer.bias.zero_()
    # The second half shifts: all weights become 0, that of task 1 for task 2 becomes 1.
    exchange.weigh.film.bias[9:] = -100.0
    exchange.weigh.film.bias[9 + 3 * 1 + 2] = 100.0
    found = exchanged(exchange, by_task)
    torch.testing.assert_close(found[:, 1], by_task[:, 2])
    torch.testing.assert_close(found[:, [0, 2]], torch.zeros(2, 2, 8, 4, 4))


@torch.no_grad()
def test_concatenation_joins_each_task_with_what_is_seen() -> None:
    exchange, by_task = make_exchange(interaction="concatenation"), torch.randn(2, 3, 8, 4, 4)
    found = exchanged(exchange, by_task)
    assert exchange.weigh is None
    torch.testing.assert_close(found[:, :, 8:], by_task)
    torch.testing.assert_close(found[:, 0, :8], found[:, 2, :8])


@torch.no_grad()
@pytest.mark.parametrize(("weights", "factor"), [("softmax", 1.0), ("sigmoid", 2.0)])
def test_levels_that_weigh_nothing_are_averaged(weights, factor: float) -> None:
    torch.manual_seed(0)
    fusion = LevelFusion(8, 3, weights=weights).eval()
    fusion.weigh.weight.zero_()
    fusion.weigh.bias.zero_()
    levels = list(torch.randn(4, 2, 3, 8, 4, 4))
    found = fusion(levels, torch.randn(2, 8))
    torch.testing.assert_close(found, factor * torch.stack(levels).mean(dim=0))
