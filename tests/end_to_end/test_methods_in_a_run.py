"""Every multi-task method goes the whole way of a run: ranks, units, export, prediction."""

from __future__ import annotations

import shutil
import threading

import numpy as np
import pytest

from deployment import load_run
from jobs.export import main as export
from pipeline.loop.local_runner import run_units
from pipeline.make.caption import SourceCaptions, caption_source
from schemas.config_method import MethodSection
from sources.open import open_run_source
from storage.files.stores import open_store
from storage.samples.codecs import decode_sample
from tests.kit import small_stage
from tests.kit.small_model import TASKS, gradient_image, make_run
from tests.kit.small_run import all_rows, make_control, make_generator, stored_members
from tests.kit.small_stage import SharedMeans, ThreadRanks, assert_equal_learners, make_stage
from trainers.stage import run_stage

pytestmark = pytest.mark.slow

every_method = pytest.mark.parametrize(
    "name", ["invpt", "taskprompter", "taskdiffusion", "diffusionmtl", "mtdiffusion"]
)


def section_of(name: str) -> dict:
    small = {"taskdiffusion": {"width": 16}, "diffusionmtl": {"token_reduction": 1}}
    own = {name: small[name]} if name in small else {}
    return {"name": name, "tasks": list(TASKS), "num_classes": 21} | own


def run_of(name: str, tmp_path):
    """A run with versions 0 and 1, whose images have no labels but normals."""
    return make_run(tmp_path, method=section_of(name))


@every_method
def test_two_ranks_hold_equal_weights_after_half_a_batch_each(name, tmp_path) -> None:
    config = small_stage.make_config(tmp_path)
    config = config.model_copy(update={"method": MethodSection(**section_of(name))})
    shared = SharedMeans(2)
    made = [make_stage(config, "warm_up", ranks=ThreadRanks(rank, shared)) for rank in range(2)]
    threads = [threading.Thread(target=run_stage, args=each) for each in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (_, first, _), (_, second, _) = made
    assert_equal_learners(second, first)
    assert (first.step, first.seen_images) == (4, 16)


@every_method
def test_a_generator_takes_up_a_version_and_labels_all_tasks_with_it(name, tmp_path) -> None:
    config = run_of(name, tmp_path)
    store = open_store(config.run.url)
    caption_source(store, open_run_source(config), SourceCaptions())
    assert run_units(make_control(config), make_generator(config), store).kind == "finished"
    rows = all_rows(config)
    assert {row.status for row in rows} == {"ok"}
    assert {row.creation_version for row in rows} == {1}
    made = [decode_sample(key, files) for (_, key), files in stored_members(config).items()]
    assert len(made) == len(rows)
    assert all(set(sample.labels) == set(sample.reliability) == set(TASKS) for sample in made)


@every_method
def test_an_export_predicts_photographs_of_any_size_as_the_run_does(name, tmp_path) -> None:
    config = run_of(name, tmp_path)
    out = tmp_path / "exported"
    export(["--run", config.run.url, "--out", str(out)])
    images = [gradient_image(*size) for size in ((21, 34), (37, 121), (32, 32))]
    wanted = [load_run(config.run.url).predict(image) for image in images]
    shutil.rmtree(config.run.url)
    run = load_run(out)
    for image, expected in zip(images, wanted, strict=True):
        found = run.predict(image)
        assert set(found) == set(TASKS)
        assert all(found[task].shape[:2] == image.shape[:2] for task in TASKS)
        for task in TASKS:
            np.testing.assert_array_equal(found[task], expected[task])
