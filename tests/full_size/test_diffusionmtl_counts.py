"""DiffusionMTL at its published sizes: shapes, parameters and operations, without their memory."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import ResNetConfig, ResNetModel

from perception.diffusion.features import FeaturePyramid
from perception.methods.diffusionmtl import DiffusionMtl, make
from schemas.config_method import DiffusionMtlSection
from tests.kit.models.multi_task import PASCAL_TASKS, num_parameters
from tests.kit.models.pyramids import full_spec

SIZE = (512, 512)
WIDTH = 512


def make_full(tasks=PASCAL_TASKS, *, encoder=None, num_classes: int = 21, **options):
    section = DiffusionMtlSection(adds_noise=False, **options)
    with torch.device("meta"):
        spec = full_spec(
            tasks,
            num_classes=num_classes,
            reads_diffusion=False,
            encoder=encoder,
            diffusionmtl=section,
        )
        method: DiffusionMtl = make(spec)
    return method.eval()


def images(size=SIZE) -> FeaturePyramid:
    return FeaturePyramid((), torch.empty(1, 3, *size, device="meta"))


def giga_multiply_adds(method: DiffusionMtl) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        method.raw_outputs(images())
    return counter.get_total_flops() / 2e9


def millions(method: DiffusionMtl) -> float:
    """Parameters as the papers count them: saliency has two logits, here one."""
    count = num_parameters(method) + (WIDTH + 1)
    if method.denoiser is not None:
        # A head, the condition's convolution and, if it is noised, the one that lets it enter.
        readers = [method.options.condition == "tasks", method.options.variant == "prediction"]
        count += WIDTH + 1 + 9 * WIDTH * sum(readers)
    return count / 1e6


@pytest.fixture(scope="module")
def resnet_50(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("resnet_50")
    ResNetModel(ResNetConfig()).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "parameters", "operations"),
    [
        ({"variant": "feature"}, 132.91, 675.3),
        ({"variant": "prediction"}, 133.07, 628.3),
        ({"variant": "baseline"}, 157.24, 607.5),
    ],
    ids=lambda value: value.get("variant") if isinstance(value, dict) else "",
)
def test_parameters_and_operations_with_resnet_18_are_the_published_ones(
    options, parameters, operations
) -> None:
    method = make_full(**options)
    assert millions(method) == pytest.approx(parameters, abs=0.005)
    assert giga_multiply_adds(method) == pytest.approx(operations, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "parameters", "operations"),
    [("feature", 158.52, 741.6), ("prediction", 158.68, 694.6)],
)
def test_parameters_and_operations_with_resnet_50_are_the_published_ones(
    resnet_50, variant, parameters, operations
) -> None:
    method = make_full(encoder=resnet_50, variant=variant)
    assert method.encoder.widths == (256, 512, 1024, 2048)
    assert millions(method) == pytest.approx(parameters, abs=0.005)
    assert giga_multiply_adds(method) == pytest.approx(operations, abs=0.1)


@pytest.mark.slow
def test_without_a_condition_the_published_count_holds_an_unused_one() -> None:
    method = make_full(variant="prediction", condition="none")
    unused = num_parameters(make_full(variant="prediction").denoiser.condition) + 9 * WIDTH
    assert millions(method) + unused / 1e6 == pytest.approx(124.67, abs=0.005)
    assert giga_multiply_adds(method) == pytest.approx(557.9, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tasks", "size", "grid", "num_classes"),
    [
        (PASCAL_TASKS, (512, 512), (64, 64), 21),
        (("semseg", "depth", "normals"), (288, 384), (36, 48), 13),
        (("semseg", "depth"), (128, 256), (16, 32), 7),
    ],
)
def test_published_sizes_give_the_published_maps_and_tokens(tasks, size, grid, num_classes) -> None:
    method, tokens = make_full(tasks, num_classes=num_classes), []
    method.denoiser.blocks[0].register_forward_hook(
        lambda block, given, found: tokens.append(tuple(given[0].shape))
    )
    with torch.no_grad():
        assert tuple(method.embedded(images(size)).shape) == (1, WIDTH, *grid)
        found = method.predict(images(size), size)
    assert tokens == [(len(tasks), grid[0] // 4 * (grid[1] // 4), WIDTH)] * 2
    assert tuple(found.labels["semseg"].shape) == (1, *size)
