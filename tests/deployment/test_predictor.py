"""Predictions for images of any size, by a method whose right answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from deployment.predictor import Predictor
from perception.build import make_method
from schemas.errors import ConfigError
from schemas.sample import TASKS as ALL_TASKS
from schemas.sample import Sample
from storage.samples.codecs import decode_sample, encode_sample
from tests.kit.small_model import TASKS, colour_reader, gradient_image
from tests.kit.small_run import make_config
from tests.kit.tiny_models import tiny_backbone

SIZES = [(37, 121), (121, 37), (32, 32), (201, 155)]


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(backbone=tiny_backbone(), method=colour_reader(), image_size=(32, 32))


@pytest.mark.parametrize("keeps_aspect", [False, True])
@pytest.mark.parametrize("averages_mirrored", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_every_pixel_of_an_odd_sized_image_gets_its_own_answer(
    predictor, size, keeps_aspect, averages_mirrored
):
    height, width = size
    found = predictor.predict(
        [gradient_image(height, width)],
        seeds=[0],
        keeps_aspect=keeps_aspect,
        # A mirrored normal is answered from mirrored colours, which the stand-in knows not of.
        tasks=("depth", "semseg") if averages_mirrored else TASKS,
        averages_mirrored=averages_mirrored,
    )[0]
    red = (np.arange(width) + 0.5) / width
    inner = slice(width // 16 + 1, -(width // 16) - 1)
    wanted = np.broadcast_to(1 + red, size)
    np.testing.assert_allclose(found["depth"][:, inner], wanted[:, inner], atol=0.03)
    far_from_edges = (
        np.abs(
            red[
                None,
                :,
            ]
            * 3
            % 1
            - 0.5
        )
        < 0.3
    )
    classes = np.broadcast_to((red * 3).astype(np.uint8), size)
    ok = np.broadcast_to(far_from_edges, size)
    np.testing.assert_array_equal(found["semseg"][ok], classes[ok])
    if "normals" in found:
        assert found["normals"].shape == (height, width, 3)
        np.testing.assert_allclose(np.linalg.norm(found["normals"], axis=-1), 1, atol=1e-5)
        across = found["normals"][..., 0] / found["normals"][..., 2]
        np.testing.assert_allclose(across[:, inner], (2 * wanted - 3)[:, inner], atol=0.06)


def test_arrays_are_encoded_as_samples_are_in_memory(predictor):
    found = predictor.predict([gradient_image(20, 45)], seeds=[0])[0]
    described = {task: (array.dtype, array.shape) for task, array in found.items()}
    assert described == {
        "normals": (np.float32, (20, 45, 3)),
        "depth": (np.float32, (20, 45)),
        "semseg": (np.uint8, (20, 45)),
    }
    assert {
        task: (each.dtype, each.shape) for task, each in found.reliability.items()
    } == dict.fromkeys(TASKS, (np.float32, (20, 45)))


def test_a_huge_image_is_answered_at_its_own_size(predictor):
    found = predictor.predict([gradient_image(1100, 1000)], seeds=[0])[0]
    assert found["normals"].shape == (1100, 1000, 3)
    np.testing.assert_allclose(np.linalg.norm(found["normals"], axis=-1), 1, atol=1e-5)
    assert set(np.unique(found["semseg"])) == {0, 1, 2}


def test_an_images_answer_does_not_depend_on_the_others_in_the_call(tmp_path):
    config = make_config(tmp_path, method={"tasks": list(TASKS), "num_classes": 5})
    method = make_method(config, tiny_backbone()).eval()
    predictor = Predictor(
        backbone=tiny_backbone(), method=method, image_size=(32, 32), batch_size=2
    )
    images = [gradient_image(*size) for size in [(32, 40), (50, 30), (32, 40), (32, 40)]]
    seeds = [1, 2, 3, 4]
    together = predictor.predict(images, seeds=seeds)
    for image, seed, found in zip(images, seeds, together, strict=True):
        alone = predictor.predict([image], seeds=[seed])[0]
        for task in ("normals", "depth"):
            np.testing.assert_allclose(found[task], alone[task], atol=1e-4)
    assert not np.array_equal(together[0]["depth"], together[2]["depth"]), "noise follows the seed"


def test_no_images_no_predictions(predictor):
    assert predictor.predict([], seeds=[]) == []


def test_a_task_that_the_run_lacks_is_named(predictor):
    with pytest.raises(ConfigError, match="tasks = saliency: the run predicts normals, depth"):
        predictor.predict([gradient_image(8, 8)], seeds=[0], tasks=["saliency"])


def test_all_six_tasks_are_predicted_at_the_images_size(tmp_path):
    config = make_config(tmp_path, method={"tasks": list(ALL_TASKS), "num_classes": 5})
    method = make_method(config, tiny_backbone()).eval()
    predictor = Predictor(backbone=tiny_backbone(), method=method, image_size=(32, 32))
    options = [{}, {"keeps_aspect": True}, {"averages_mirrored": True}]
    for found in (
        predictor.predict([gradient_image(21, 50)], seeds=[0], **each)[0] for each in options
    ):
        sample = Sample(
            key="a",
            image=gradient_image(21, 50),
            labels=dict(found),
            reliability=found.reliability,
        )
        assert set(decode_sample("a", encode_sample(sample)).labels) == set(ALL_TASKS)
        for task in ("saliency", "boundaries"):
            assert 0 <= found[task].min() <= found[task].max() <= 1
