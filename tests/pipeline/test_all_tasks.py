"""All six tasks through a whole unit: a folder is read, labelled, stored, and learnt from again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from perception.build import make_method
from perception.methods.protocol import supervised_loss
from pipeline.loop.local_runner import run_units
from runs.contact_sheet import make_contact_sheet, rows_of_run
from schemas.sample import IGNORE_PROBABILITY, TASK_KINDS, TASKS
from sources.batches import collate
from sources.open import open_run_source
from storage.files.stores import open_store
from storage.samples.codecs import decode_sample, encode_image_png, encode_label
from tests.kit.random_labels import random_sample
from tests.kit.small_run import (
    all_rows,
    make_config,
    make_control,
    make_generator,
    prepare,
    stored_members,
)
from tests.kit.tiny_models import IMAGE_SIZE_PX, tiny_backbone

SIZE = (IMAGE_SIZE_PX, IMAGE_SIZE_PX)
NUM_KEYS = 2
NUM_CLASSES = 20


def write_folder(root: Path) -> Path:
    """A folder with labels of all tasks; its files hold what the codecs write."""
    for seed in range(NUM_KEYS):
        sample = random_sample(seed, size=SIZE)
        for task in TASKS[:4]:
            write(root / f"{task}/{seed}.png", encode_label(sample.labels[task], task))
        for task in TASKS[4:]:
            path = root / f"{task}/{seed}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, sample.labels[task])
        write(root / f"image/{seed}.png", encode_image_png(sample.image))
    probability = {"ignore": [IGNORE_PROBABILITY]}
    labels: dict[str, dict] = {task: {"pattern": f"{task}/{{key}}.png"} for task in TASKS[:4]}
    labels |= {task: {"pattern": f"{task}/{{key}}.npy"} | probability for task in TASKS[4:]}
    labels["semseg"]["num_classes"] = NUM_CLASSES
    description = {
        "root": str(root),
        "image": "image/{key}.png",
        "labels": labels,
        "splits": {"train": {"all": True}},
        "size": list(SIZE),
    }
    file = root / "folder.yaml"
    file.write_text(yaml.safe_dump(description))
    return file


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def folder_config(tmp_path: Path, **labelling):
    config = make_config(
        tmp_path,
        method={"tasks": list(TASKS), "num_classes": NUM_CLASSES},
        labelling=labelling,
    )
    description = write_folder(tmp_path / "folder")
    tree = config.model_dump() | {"source": {"kind": "folder", "description": str(description)}}
    return type(config).model_validate(tree)


def real_samples(config):
    source = open_run_source(config)
    return [sample for shard in source.shards("train") for sample in source.read(shard)]


def test_a_folder_gives_the_labels_that_were_put_into_it(tmp_path):
    for seed, sample in enumerate(real_samples(folder_config(tmp_path))):
        wanted = random_sample(seed, size=SIZE).labels
        for task, label in sample.labels.items():
            assert label.dtype == wanted[task].dtype
            tolerance = {"normals": 0.01, "depth": 0.001}.get(task, 1e-6)
            np.testing.assert_allclose(label, wanted[task], atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("soft", [False, True])
def test_all_tasks_are_labelled_stored_shown_and_learnt_from(tmp_path, soft):
    config = folder_config(tmp_path, soft_labels=soft, average_mirrored=True)
    store = prepare(config)
    assert run_units(make_control(config), make_generator(config), store).kind == "finished"

    rows = all_rows(config)
    assert [row.status for row in rows] == ["ok"] * NUM_KEYS, [row.error_msg for row in rows]
    assert set(json.loads(rows[0].label_stats)) == {f"{task}_confidence" for task in TASKS}

    made = [decode_sample(key, parts) for (_, key), parts in stored_members(config).items()]
    for sample in made:
        assert set(sample.labels) == set(sample.reliability) == set(TASKS)
        for task in TASKS:
            if TASK_KINDS[task] == "probability":
                label, sure = sample.labels[task], sample.reliability[task]
                assert sure.min() >= 0.5
                assert set(np.unique(label)) <= {0, 1} or soft
                expected = np.maximum(label, 1 - label) if soft else sure
                np.testing.assert_allclose(sure, expected, atol=0.01)

    batch = collate([*real_samples(config), *made], TASKS)
    backbone = tiny_backbone()
    method = make_method(config, backbone)
    pyramid = method.observe(backbone, batch.images, generators=torch.Generator().manual_seed(0))
    loss, terms = supervised_loss(method.train(), pyramid, batch.labels)
    assert torch.isfinite(loss)
    assert set(terms) == set(TASKS)

    sheet = rows_of_run(open_store(config.run.url), open_run_source(config), limit=2)
    assert all(row.real is not None and set(row.labels) == set(TASKS) for row in sheet)
    assert make_contact_sheet(sheet)
