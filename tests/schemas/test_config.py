"""Configuration: complete, closed, and its errors say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.config import RunConfig
from schemas.config_base import Section, values_of
from schemas.config_file import dump_config, load_config, parse_config
from schemas.errors import ConfigError

ROOT = Path(__file__).parents[2]
LEAST = {
    "run": {"url": "runs/x"},
    "training": {"warm_up": {"steps": 10}, "self_improve": {"steps": 10}},
}


RUNS = [p for p in sorted((ROOT / "configs").glob("*.yaml")) if "\nrun:" in p.read_text()]


@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.name)
def test_every_shipped_configuration_is_valid_and_says_what_it_costs(path: Path) -> None:
    load_config(path)
    head = path.read_text().splitlines()[0]
    assert head.startswith("#")


def test_defaults_are_the_papers() -> None:
    config = parse_config(LEAST, origin="test")
    assert config.creator.t_start == 600
    assert config.creator.num_steps == 50
    assert config.creator.guidance_scale == 1.0
    assert config.training.ema.decay == 0.998
    assert config.training.ema.every_samples == 40


def test_a_dumped_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = parse_config(LEAST, origin="test")
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config))
    assert load_config(file) == config


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("creator.t_strt=3", "did you mean t_start?"),
        ("creator.t_start=1200", "creator.t_start = 1200"),
        ("creator.t_start=1200", "less than or equal to 1000"),
        ("creator.num_steps=700", "lower num_steps or raise t_start"),
        ("training.num_workers=3", "cannot be split over"),
        ("training.ema.decay=1.0", "training.ema.decay = 1.0"),
        ("source.kind=nowhere", "nowhere"),
        ("run.url.deeper=1", "is a value, not a section"),
        ("nonsense", "wanted section.field=value"),
        ("method.tasks=[sound]", "sound"),
        ("pairs.jointnet.masks=[1,1,0,0]", "wanted four shares of at least 0 that sum to 1"),
        ("pairs.depth_farthest_m=0.1", "give the range of the data set"),
    ],
)
def test_a_wrong_value_is_named_with_its_remedy(
    tmp_path: Path, override: str, expected: str
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(parse_config(LEAST, origin="test")))
    with pytest.raises(ConfigError) as caught:
        load_config(file, (override,))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ({"name": "jointnet", "tasks": ["normals", "depth"]}, "set name to mtdiffusion"),
        ({"name": "mtdiffusion", "backbone_tuning": "lora"}, "pairs.mtdiffusion.tuning"),
    ],
)
def test_a_pair_model_is_refused_what_it_cannot_do(method, expected) -> None:
    with pytest.raises(ConfigError, match=expected):
        parse_config({**LEAST, "method": method}, origin="test")


def test_all_problems_are_told_at_once() -> None:
    tree = {**LEAST, "creator": {"t_start": 0, "eta": 2}, "plan": {"round": 1}}
    with pytest.raises(ConfigError) as caught:
        parse_config(tree, origin="test")
    assert "3 problems" in str(caught.value)


def test_a_missing_file_names_itself() -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config("configs/none.yaml")


def test_the_recipe_changes_with_the_creator_and_not_with_the_trainer() -> None:
    base = parse_config(LEAST, origin="test")
    other_creator = parse_config({**LEAST, "creator": {"t_start": 300}}, origin="test")
    other_trainer = parse_config(
        {**LEAST, "training": {**LEAST["training"], "real_fraction": 0.7}}, origin="test"
    )
    assert base.recipe_hash != other_creator.recipe_hash
    assert base.recipe_hash == other_trainer.recipe_hash


def test_a_field_that_came_later_leaves_the_recipe_as_it_was_where_it_is_not_used() -> None:
    config = load_config("configs/rooms_demo.yaml")
    assert config.recipe_hash == "9d7fc3d7d51c6979"
    other = load_config("configs/rooms_demo.yaml", ("model.variant=fp16",))
    assert other.recipe_hash != config.recipe_hash


def test_the_recipe_changes_with_how_the_creator_learns() -> None:
    recipes = {
        parse_config(with_creator_stage(**changes), origin="test").recipe_hash
        for changes in ({"steps": 10}, {"steps": 20}, {"steps": 10, "tuning": "full"})
    }
    assert len(recipes) == 3
    assert parse_config(LEAST, origin="test").recipe_hash not in recipes


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"creator": {"kind": "unlabelled"}}, "creator.kind = unlabelled: has nothing to train"),
        ({"creator": {"kind": "completion"}}, "set creator.kind to one of halfway, gaussian"),
        ({"model": {"dtype": "float16"}}, "set model.dtype to bfloat16"),
    ],
)
def test_a_creator_that_cannot_learn_is_refused(sections: dict, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        parse_config({**with_creator_stage(), **sections}, origin="test")


def test_the_stage_of_the_creator_splits_its_batches_and_makes_its_own_images() -> None:
    for changes, expected in (
        ({"num_workers": 2, "creator": {"steps": 1, "batch_size": 3}}, "make it a multiple"),
        ({"synthetic_run": "other", "creator": {"steps": 1}}, "remove one of the two"),
    ):
        tree = {**LEAST, "training": {**LEAST["training"], **changes}}
        with pytest.raises(ConfigError, match=expected):
            parse_config(tree, origin="test")


def with_creator_stage(**changes: object) -> dict:
    section = {"steps": 10} | changes
    return {**LEAST, "training": {**LEAST["training"], "creator": section}}


def test_the_recipe_does_not_depend_on_how_images_are_computed() -> None:
    base = parse_config(LEAST, origin="test")
    elsewhere = parse_config(
        {
            **LEAST,
            "model": {"device": "cuda:3", "compile": True, "vae_slicing": True},
            "creator": {"batch_size": 2},
        },
        origin="test",
    )
    assert base.recipe_hash == elsewhere.recipe_hash
    assert (
        base.recipe_hash
        != parse_config({**LEAST, "model": {"dtype": "bfloat16"}}, origin="test").recipe_hash
    )


OPERATIONS = {
    *("run.url", "run.recipe"),
    *("model.device", "model.channels_last", "model.compile"),
    *("model.vae_slicing", "model.attention_slicing"),
    *("creator.batch_size", "labelling.batch_size", "evaluation.batch_size"),
    *("training.poll_s", "training.num_workers", "training.cpus_per_worker", "training.use_gpu"),
    *("training.checkpoint_every_steps", "training.starved_after_s"),
    *("generation.num_generators", "generation.cpus_per_generator"),
    *("generation.gpus_per_generator", "generation.max_attempts", "generation.unit_timeout_s"),
    *("generation.min_unit_timeout_s", "generation.max_failed_fraction"),
    "generation.failure_window_units",
    *("ray.address", "ray.object_store_mb", "ray.generator_labels", "ray.trainer_labels"),
}


def test_what_a_resumed_run_may_change_is_exactly_this() -> None:
    found = {
        path
        for path, kind, _ in values_of(parse_config(LEAST, origin="test"))
        if kind == "operations"
    }
    assert found == OPERATIONS


def test_a_section_that_does_not_say_what_its_fields_are_cannot_be_written() -> None:
    with pytest.raises(TypeError, match="fields_are"):
        type("Unsaid", (Section,), {})


def test_the_configuration_cannot_be_changed_in_place() -> None:
    config: RunConfig = parse_config(LEAST, origin="test")
    with pytest.raises(ValueError, match="frozen"):
        config.run.seed = 3  # type: ignore[misc]


def test_names_of_classes_are_as_many_as_the_classes() -> None:
    method = {"tasks": ["semseg"], "num_classes": 3, "class_names": ["floor", "wall"]}
    with pytest.raises(ConfigError, match=r"2 names for num_classes = 3"):
        parse_config({**LEAST, "method": method}, origin="test")
    whole = method | {"class_names": ["floor", "wall", "bed"]}
    assert parse_config({**LEAST, "method": whole}, origin="test").method.num_classes == 3
