"""A small run with published weights, and a method whose right answers are known."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from perception.methods.protocol import DensePredictor, Predictions, Pyramid
from runs.directory import claim_run_directory
from schemas.config import RunConfig
from schemas.config_method import MethodSection
from schemas.sample import Task
from storage.files.stores import open_store
from tests.kit.small_run import make_config, publish
from tests.kit.tiny_models import tiny_captioner_folder

TASKS: tuple[Task, ...] = ("normals", "depth", "semseg")


def make_run(tmp_path: Path, *, versions: int = 2, **changes: Any) -> RunConfig:
    """A run of three tasks in ``tmp_path/run`` with published versions of random weights."""
    sections = {
        "method": {"tasks": list(TASKS), "num_classes": 21},
        "model": {"captioner": "blip2", "captioner_path": str(tiny_captioner_folder())},
    }
    config = make_config(tmp_path, **(sections | changes))
    claim_run_directory(open_store(config.run.url), config)
    for version in range(versions):
        publish(config, version, shift=0.02 * version)
    return config


def gradient_image(height: int, width: int) -> NDArray[np.uint8]:
    """Red grows from left to right, green from top to bottom, blue is 64."""
    image = np.full((height, width, 3), 64, np.uint8)
    image[..., 0] = np.rint((np.arange(width) + 0.5) / width * 255)[None, :]
    image[..., 1] = np.rint((np.arange(height) + 0.5) / height * 255)[:, None]
    return image


class ColourReader(DensePredictor):
    """Sees colours: depth is 1 + red, a class for each third of red, normals from red and green."""

    def __init__(self) -> None:
        super().__init__(MethodSection(tasks=TASKS))

    def forward_train(self, pyramid: Pyramid, *, labels: Any = None, generator: Any = None) -> Any:
        raise NotImplementedError

    def loss(self, outputs: Any, labels: Any, weights: Any = None) -> Any:
        raise NotImplementedError

    def predict(self, pyramid: Pyramid, image_size: tuple[int, int]) -> Predictions:
        assert pyramid.images is not None
        colour = (pyramid.images + 1) / 2
        colour = functional.interpolate(
            colour, size=image_size, mode="bilinear", align_corners=False
        )
        red, green = colour[:, :1], colour[:, 1:2]
        towards = torch.cat([2 * red - 1, 2 * green - 1, torch.ones_like(red)], dim=1)
        return Predictions(
            labels={
                "normals": functional.normalize(towards, dim=1),
                "depth": 1 + red,
                "semseg": (red[:, 0] * 3).long().clamp(max=2),
            },
            reliability={"normals": 90 * green, "depth": green, "semseg": green},
        )


@functools.cache
def colour_reader() -> ColourReader:
    return ColourReader()
