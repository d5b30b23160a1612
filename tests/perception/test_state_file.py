"""A module's state survives the trip through bytes, or is refused by name."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from torch import nn

from perception.state_file import keys_digest, load_state_bytes, state_to_bytes
from schemas.digest import sha256_of
from schemas.errors import WeightsMismatchError
from tests.kit.models.pyramids import make_labels, make_pyramid, make_small_method


def test_a_state_comes_back_into_the_same_storage() -> None:
    source, target = make_small_method(seed=0), make_small_method(seed=1)
    source(make_pyramid(2), make_labels(2))
    addresses = [value.data_ptr() for value in target.state_dict().values()]
    load_state_bytes(target, state_to_bytes(source))
    assert addresses == [value.data_ptr() for value in target.state_dict().values()]
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name
    pyramid = make_pyramid(1)
    ours, theirs = (each.predict(pyramid, (64, 64)).labels for each in (target, source))
    assert torch.equal(ours["normals"], theirs["normals"])


def test_integer_buffers_travel() -> None:
    source, target = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    source(torch.randn(2, 3, 4, 4))
    load_state_bytes(target, state_to_bytes(source))
    assert target.num_batches_tracked.item() == 1


def test_equal_states_have_equal_digests_and_others_do_not() -> None:
    digests = [sha256_of(state_to_bytes(make_small_method(seed=seed))) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    assert keys_digest(make_small_method(seed=0)) == keys_digest(make_small_method(seed=1))
    assert keys_digest(make_small_method()) != keys_digest(make_small_method(("depth",)))


def test_the_bytes_are_a_safetensors_file() -> None:
    data = state_to_bytes(nn.Linear(2, 3))
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    assert {name: value["shape"] for name, value in header.items()} == {
        "bias": [3],
        "weight": [3, 2],
    }


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (nn.Linear(2, 3, bias=False), "missing .bias"),
        (nn.Sequential(nn.Linear(2, 3)), "unexpected .0.bias"),
        (nn.Linear(4, 3), r"weight .wanted float32 \[3, 2\], found float32 \[3, 4\]"),
        (nn.Linear(2, 3).half(), "found float16"),
    ],
)
def test_a_state_of_another_module_is_refused_by_name_and_nothing_is_copied(other, named) -> None:
    module = nn.Linear(2, 3)
    before = module.weight.clone()
    with pytest.raises(WeightsMismatchError, match=named):
        load_state_bytes(module, state_to_bytes(other))
    assert torch.equal(module.weight, before)


def test_torn_bytes_are_refused() -> None:
    data = state_to_bytes(nn.Linear(2, 3))
    with pytest.raises(WeightsMismatchError, match="safetensors"):
        load_state_bytes(nn.Linear(2, 3), data[:-4])
