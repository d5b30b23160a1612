"""jobs/retry.py as a user starts it: on Ray, for degraded, failed and quarantined units."""

from __future__ import annotations

import shutil

import pytest

from jobs.retry import main
from pipeline.loop.local_runner import run_units
from pipeline.make.attempt import Attempt
from pipeline.make.commit import commit_failed_unit
from pipeline.make.isolate import Failure
from runs.directory import claim_run_directory
from runs.generation import plan_of
from tests.kit.job_process import environment, finish_job, ray_folder
from tests.kit.small_run import (
    BROKEN_KEY,
    make_config,
    make_control,
    make_generator,
    prepare,
    write_source,
)
from tests.kit.wholeness import expect_whole

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

DIED = Failure("generator_died", "the process was killed by this sample")
OUT_OF_MEMORY = Failure("OutOfMemoryError", "8 images did not fit")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Four units: whole, degraded by an image, failed as a whole, quarantined."""
    tmp_path = tmp_path_factory.mktemp("retry")
    write_source(tmp_path / "source", with_broken_image=True)
    config = make_config(tmp_path, generation={"num_generators": 1, "max_failed_fraction": 1.0})
    store = prepare(config)
    claim_run_directory(store, config)
    plan = plan_of(config)
    others = [unit for unit in plan if BROKEN_KEY not in unit.keys]
    commit_failed_unit(store, config, others[0], failure=DIED, attempt=Attempt("a03-failed"))
    commit_failed_unit(
        store, config, others[1], failure=OUT_OF_MEMORY, attempt=Attempt("a03-failed")
    )
    run_units(make_control(config, weights_final=True), make_generator(config), store)
    return config, plan, tmp_path


def retry(url: str, tmp_path, *options: str):
    with ray_folder() as folder:
        return finish_job(
            "retry", [url, *options], log=tmp_path / "log.txt", environment=environment(folder)
        )


def statuses(config, plan) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in expect_whole(config.run.url, plan):
        counts[row["error_class"] or "ok"] = counts.get(row["error_class"] or "ok", 0) + 1
    return counts


def test_what_failed_is_made_again_on_ray_and_what_fails_again_is_no_success(run):
    config, plan, tmp_path = run
    assert statuses(config, plan) == {
        "ok": 3,
        "decode_failed": 1,
        "generator_died": 2,
        "OutOfMemoryError": 2,
    }
    ended = retry(config.run.url, tmp_path)
    assert ended.code == 1, ended.output
    assert "3 units to retry, 6 samples" in ended.output
    assert "good samples in these units: 1 before, 5 now" in ended.output
    assert "failed: 1 sample failed again: decode_failed (1)" in ended.output
    assert ended.survivors == []
    assert statuses(config, plan) == {"ok": 7, "decode_failed": 1}
    # Once the image is mended, nothing is left.
    shutil.rmtree(tmp_path / "source")
    write_source(tmp_path / "source")
    main([config.run.url, "--local"])
    assert statuses(config, plan) == {"ok": 8}


def test_a_retry_of_what_is_not_there_is_the_users_mistake(run):
    config, _, tmp_path = run
    ended = retry(config.run.url, tmp_path, "--units", "0" * 16)
    assert ended.code == 2, ended.output
    assert "not committed" in ended.output
