"""Eq. 8 against its closed form, and when it is due."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from trainers.ema import EmaSchedule, ema_update_


def make_network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
        network(torch.randn(8, 3, 5, 5))
    return network


@pytest.mark.parametrize("updates", [1, 2, 7, 100])
def test_k_updates_towards_constant_weights_have_the_closed_form(updates):
    decay = 0.9
    creation, exploitation = make_network(0), make_network(1)
    start = {name: tensor.clone() for name, tensor in creation.named_parameters()}
    for _ in range(updates):
        ema_update_(creation, exploitation, decay=decay)
    for name, target in exploitation.named_parameters():
        wanted = decay**updates * start[name] + (1 - decay**updates) * target
        torch.testing.assert_close(creation.get_parameter(name), wanted)


def test_several_updates_at_once_equal_as_many_single_ones():
    at_once, one_by_one, exploitation = make_network(0), make_network(0), make_network(1)
    ema_update_(at_once, exploitation, decay=0.8, updates=3)
    for _ in range(3):
        ema_update_(one_by_one, exploitation, decay=0.8)
    for found, wanted in zip(at_once.parameters(), one_by_one.parameters(), strict=True):
        torch.testing.assert_close(found, wanted)


def test_no_update_changes_nothing():
    creation, exploitation = make_network(0), make_network(1)
    before = {name: tensor.clone() for name, tensor in creation.state_dict().items()}
    ema_update_(creation, exploitation, decay=0.5, updates=0)
    for name, tensor in creation.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_the_exploitation_weights_stay_as_they_are():
    creation, exploitation = make_network(0), make_network(1)
    before = {name: tensor.clone() for name, tensor in exploitation.state_dict().items()}
    ema_update_(creation, exploitation, decay=0.5)
    for name, tensor in exploitation.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_running_statistics_are_averaged_and_counters_copied():
    creation, exploitation = make_network(0), make_network(1)
    exploitation(torch.randn(8, 3, 5, 5))
    start = creation[1].running_mean.clone()
    ema_update_(creation, exploitation, decay=0.75)
    wanted = 0.75 * start + 0.25 * exploitation[1].running_mean
    torch.testing.assert_close(creation[1].running_mean, wanted)
    assert creation[1].num_batches_tracked == exploitation[1].num_batches_tracked == 2
    assert creation[1].num_batches_tracked.dtype == torch.int64


def test_running_statistics_are_copied_on_request():
    creation, exploitation = make_network(0), make_network(1)
    ema_update_(creation, exploitation, decay=0.75, float_buffers="copy")
    assert torch.equal(creation[1].running_var, exploitation[1].running_var)


def test_averaged_kernels_keep_a_spectral_norm_of_one():
    def make(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return spectral_norm(nn.Linear(6, 5, bias=False))

    creation, exploitation = make(0).eval(), make(1).train()
    for _ in range(40):
        _ = exploitation.weight  # a power iteration, as in each training step
        ema_update_(creation, exploitation, decay=0.8)
    assert not creation.training
    assert not creation.parametrizations.weight.training
    for vector in creation.buffers():
        assert vector.norm() == pytest.approx(1.0, abs=1e-5)
    largest = torch.linalg.matrix_norm(creation.weight.detach(), 2)
    assert float(largest) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("batch_size", [1, 4, 16, 40, 64, 120])
@pytest.mark.parametrize("world", [1, 2, 5])
def test_the_number_of_updates_depends_on_the_images_alone(batch_size, world):
    schedule = EmaSchedule(every_samples=40)
    step_images = batch_size * world
    seen = [step_images * step for step in range(101)]
    updates = sum(schedule.updates_due(a, b) for a, b in itertools.pairwise(seen))
    assert updates == (100 * step_images) // 40


def test_updates_come_every_ten_steps_of_four_images():
    schedule = EmaSchedule(every_samples=40)
    due = [schedule.updates_due(4 * step, 4 * (step + 1)) for step in range(20)]
    assert due == [0] * 9 + [1] + [0] * 9 + [1]
