"""The quick score of weights while a stage trains."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from perception.build import make_method
from schemas.config_source import MixSource
from sources.open import open_source
from tests.kit.rooms_source import rooms_section, write_rooms
from tests.kit.small_run import make_config, make_sample
from tests.kit.tiny_models import tiny_backbone
from trainers.validation import Validator, headline

TASKS = ("normals", "depth")


def write_member(folder, task):
    """Four validation images with one label each, and a training image."""
    shards = {}
    for name, count in (("train-000000", 1), ("validation-000000", 4)):
        samples = [make_sample(f"{name}-{i}", seed=i) for i in range(count)]
        depth = np.full(samples[0].image.shape[:2], 2.0, np.float32)
        labels = [{**each.labels, "depth": depth}[task] for each in samples]
        shards[name] = [
            replace(each, labels={task: label}) for each, label in zip(samples, labels, strict=True)
        ]
    write_rooms(folder, shards)
    section = rooms_section(folder, train=1, validation=4)
    return {"name": task, "tasks": [task], "source": section}


def test_of_a_mix_each_members_tasks_are_scored_however_few_images_are_looked_at(tmp_path):
    members = [write_member(tmp_path / task, task) for task in TASKS]
    source = open_source(MixSource.model_validate({"members": members}), TASKS)
    config = make_config(tmp_path, method={"tasks": list(TASKS)})
    validator = Validator(source, tiny_backbone(), tasks=TASKS, max_images=4)
    scores = headline(validator.score(make_method(config, tiny_backbone())))
    assert validator.num_images == 4
    assert len(scores) == 2
    assert not any(math.isnan(score) for score in scores.values())
