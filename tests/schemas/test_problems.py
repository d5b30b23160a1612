"""What is wrong with a file is told in words: field, value, what is wanted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from schemas.config_file import load_config
from schemas.errors import ConfigError, SourceError
from sources.folder_description import load_description

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "configs" / "rooms_demo.yaml"
PYDANTIC = re.compile(
    r"literal\[|constrained|function-|tuple\[|union|validation error|input should|str_type|\[key\]|"
    r"valid (tuple|list|dictionary|integer|number|string)|pydantic"
)


def told(*changes: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(DEMO, changes)
    assert not PYDANTIC.search(str(caught.value)), str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ("method.tasks=semseg", "method.tasks = 'semseg': wanted a list"),
        ("method.tasks=semseg", "write [semseg]"),
        ("method.tasks=normals,depth", "write [normals, depth]"),
        ("method.class_names=wall", "write [wall]"),
        ("method.tasks=[semsg]", "method.tasks.0 = 'semsg': wanted normals, depth"),
        ("method.tasks=[semsg]", "did you mean semseg?"),
        ("method.tasks=[]", "method.tasks = []: wanted at least 1 of them, found 0"),
        ("method.name=invpts", "did you mean invpt?"),
        ("method.width_ratio=wide", "method.width_ratio = 'wide': wanted a number above 0"),
        ("method.num_classes=many", "wanted a whole number at least 1"),
        ("method.num_classes=2.5", "wanted a whole number at least 1"),
        ("method.task_weights={depht: 1}", "method.task_weights.depht = 'depht': wanted normals"),
        ("method.task_weights=2", "wanted a mapping from normals,"),
        ("creator.t_start=1200", "wanted less than or equal to 1000"),
        ("model.compile=perhaps", "model.compile = 'perhaps': wanted true or false"),
        ("source.kind=nowhere", "source.kind = 'nowhere': wanted one of rooms, folder, shards"),
        ("source=here", "source = 'here': wanted fields such as kind:, root:"),
        ("source.rot=x", "did you mean root?"),
        ("model=starter", "model = 'starter': wanted fields such as diffusion:"),
        ("run={}", "run.url: missing; add it (Run directory"),
    ],
)
def test_a_wrong_value_of_a_configuration_is_told_in_words(change: str, wanted: str) -> None:
    assert wanted in told(change)


def test_every_list_of_a_configuration_says_how_a_list_is_written() -> None:
    lists = [
        ("ray.generator_labels", "mapping"),
        ("labelling", "fields such as"),
        ("method.tasks", "[x, y]"),
        ("method.class_names", "[x, y]"),
    ]
    for field, wanted in lists:
        assert wanted in told(f"{field}=x, y")


DESCRIPTION = {
    "root": ".",
    "image": "rgb/{key}.png",
    "labels": {"depth": {"pattern": "depth/{key}.png"}},
    "splits": {"train": {"all": True}},
    "size": [64, 96],
}


@pytest.mark.parametrize(
    ("path", "value", "wanted"),
    [
        (
            ("labels", "depth", "unit"),
            "1/256x",
            "labels.depth.unit = '1/256x': wanted mm, cm, m, the metres of one step such as 0.0002",
        ),
        (("size",), "64x96", "size = '64x96': wanted a list of 2, each a whole number at least 1"),
        (("size",), "64x96", "write [64, 96]"),
        (("size",), [64], "size"),
        (("labels", "depth", "units"), "mm", "did you mean unit?"),
        (("labels", "colour"), "red", "labels.colour = 'red': unknown field; known here: normals"),
        (("splits", "train"), {"all": "yes"}, "splits.train.all = 'yes': wanted true"),
        (("splits", "train"), "all", "splits.train = 'all': wanted fields such as list:"),
        (("fit",), "croop", "did you mean crop?"),
    ],
)
def test_a_wrong_value_of_a_description_is_told_in_words(
    tmp_path: Path, path: tuple[str, ...], value: object, wanted: str
) -> None:
    tree = yaml.safe_load(yaml.safe_dump(DESCRIPTION))
    node = tree
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    file = tmp_path / "folder.yaml"
    file.write_text(yaml.safe_dump(tree))
    with pytest.raises(SourceError) as caught:
        load_description(file)
    assert wanted in str(caught.value)
    assert not PYDANTIC.search(str(caught.value)), str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("run.seed=yes", r"run\.seed = true \(yes and on are read so.*wanted a number"),
        ("method.tasks=[depth, depth]", "depth is given twice"),
        ("method.num_classes=300", "at most 255|less than or equal to 255"),
    ],
)
def test_values_that_a_run_cannot_mean_are_refused(override, said):
    with pytest.raises(ConfigError, match=said):
        load_config(DEMO, (override,))
