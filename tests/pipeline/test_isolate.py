"""One bad sample costs only itself."""

from __future__ import annotations

import pytest

from pipeline.make.isolate import Failure, map_isolated
from schemas.errors import SampleError


def refusing(*bad):
    calls = []

    def double(batch):
        calls.append(list(batch))
        if set(batch) & set(bad):
            raise SampleError("poison", f"{batch}")
        return [2 * item for item in batch]

    return double, calls


def test_only_the_bad_samples_fail():
    double, _ = refusing(3, 6)
    found = map_isolated(range(8), double, batch_size=8)
    assert [i for i, made in enumerate(found) if isinstance(made, Failure)] == [3, 6]
    assert [made for made in found if not isinstance(made, Failure)] == [0, 2, 4, 8, 10, 14]


def test_a_bad_sample_is_tried_once_more_alone():
    double, calls = refusing(3)
    map_isolated(range(8), double, batch_size=8)
    assert calls.count([3]) == 2
    assert len(calls) <= 2 * 3 + 2


def test_a_batch_that_does_not_fit_into_memory_is_made_in_halves():
    def fits_three(batch):
        if len(batch) > 3:
            raise RuntimeError("out of memory")
        return list(batch)

    assert map_isolated(range(9), fits_three, batch_size=9) == list(range(9))


def test_what_is_no_sample_error_passes_through():
    def broken(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        map_isolated([1], broken, batch_size=1)
