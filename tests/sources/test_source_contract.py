"""What holds of every source of real samples, and of every layout that becomes one."""

from __future__ import annotations

import importlib
import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

import sources.layouts
from schemas.config_source import FolderSource, LabelsSection, RoomsSource, ShardsSource, Source
from schemas.errors import ConfigError, SourceError, UserError
from schemas.sample import INVALID_VALUES, TASK_KINDS, TASKS, Sample, Task, UnreadableSample
from sources.layouts.protocol import Layout
from sources.layouts.registry import LAYOUTS
from sources.open import OPENERS, open_source
from sources.prepare.prepare import PrepareRequest, open_files, prepare
from sources.protocol import LabelledSource, Split
from sources.rooms import ROOM_TASKS
from storage.samples.shards import pack_tar, read_tar
from tests.kit.folder_files import HEIGHT, WIDTH, png, write_folder
from tests.kit.layouts.layout_checks import check_encodings, read_layout
from tests.kit.layouts.small_copies import COPIES

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOMS = Path(__file__).parents[2] / "data" / "rooms"
SPLITS: tuple[Split, ...] = get_args(Split)
NO_LAYOUTS = {"__init__", "protocol", "registry", "classes"}
PADDED = (13, 17)
"""Larger than any small copy, so that every label has pixels without a value."""


@dataclass(frozen=True)
class Case:
    """One source on disk.

    Attributes:
        config: Its section of a configuration, without limits.
        root: Folder of its files.
        tasks: All tasks it has labels of.
        always_valid: Those whose labels have a value everywhere.
    """

    config: Any
    root: Path
    tasks: tuple[Task, ...]
    always_valid: frozenset[Task] = frozenset()

    def open(self, tasks: tuple[Task, ...] | None = None, **limits: Any) -> LabelledSource:
        wanted = self.tasks if tasks is None else tasks
        return open_source(self.config.model_copy(update=limits), wanted)


def prepare_copy(name: str, folder: Path) -> Case:
    COPIES[name](folder / "in")
    out = folder / "out"
    request = PrepareRequest(
        layout=name, root=folder / "in", out=str(out), size=PADDED, fit="pad", per_shard=2
    )
    files = open_files(request)
    prepare(request, files)
    return Case(ShardsSource(root=str(out), validation_fraction=0.0), out, files.tasks)


def copy_rooms(folder: Path) -> Case:
    shutil.copy(ROOMS / "manifest.parquet", folder)
    for split in ("train", "validation", "test"):
        shutil.copy(ROOMS / f"{split}-000000.tar", folder)
    config = RoomsSource(root=str(folder), num_labelled=12, num_validation=4, num_test=4)
    return Case(config, folder, ROOM_TASKS, frozenset(ROOM_TASKS))


def make_folder(folder: Path) -> Case:
    tree = write_folder(folder / "files")
    size = (HEIGHT, WIDTH)
    png(folder / "files/normal/0001.png", np.zeros((*size, 3), np.uint8))
    png(folder / "files/depth/0001.png", np.zeros(size, np.uint16))
    png(folder / "files/class/0001.png", np.zeros(size, np.uint8))
    png(folder / "files/parts/0001.png", np.full(size, 255, np.uint8))
    tree["splits"] |= {"test": {"hold_out": {"every": 5}}, "validation": {"hold_out": {"every": 4}}}
    (folder / "mine.yaml").write_text(yaml.safe_dump(tree))
    config = FolderSource(description=str(folder / "mine.yaml"))
    return Case(config, folder / "files", TASKS, frozenset({"saliency", "boundaries"}))


MAKERS = {
    "rooms": copy_rooms,
    "folder": make_folder,
    **{name: lambda folder, name=name: prepare_copy(name, folder) for name in LAYOUTS},
}


@pytest.fixture(scope="module", params=MAKERS)
def case(request, tmp_path_factory) -> Case:
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture
def own_case(request, case, tmp_path) -> Case:
    """The same, to be damaged."""
    return MAKERS[request.node.callspec.params["case"]](tmp_path)


def keys_of(source: LabelledSource, split: Split) -> list[str]:
    return [key for shard in source.shards(split) for key in shard.keys]


def read_split(source: LabelledSource, split: Split = "train") -> Iterator[Sample]:
    for shard in source.shards(split):
        for found in source.read(shard):
            assert isinstance(found, Sample), found
            yield found


def assert_equal(one: Sample, other: Sample) -> None:
    assert (one.key, one.caption, one.meta) == (other.key, other.caption, other.meta)
    np.testing.assert_array_equal(one.image, other.image)
    assert set(one.labels) == set(other.labels)
    for task, label in one.labels.items():
        np.testing.assert_array_equal(label, other.labels[task])


class TestTables:
    """Kinds of sources and layouts are chosen by tables."""

    def test_every_kind_of_source_of_the_configuration_can_be_opened(self):
        union, *_ = get_args(Source)
        kinds = {section.model_fields["kind"].default for section in get_args(union)}
        assert set(OPENERS) == kinds

    def test_every_layout_that_a_file_defines_is_in_the_table(self):
        for path in Path(sources.layouts.__path__[0]).glob("*.py"):
            module = importlib.import_module(f"sources.layouts.{path.stem}")
            defined = [value for value in vars(module).values() if isinstance(value, Layout)]
            assert all(LAYOUTS[layout.name] is layout for layout in defined), path
            assert defined or path.stem in NO_LAYOUTS, f"add a Layout to {path}"

    def test_every_layout_has_a_small_copy_for_these_tests(self):
        assert set(COPIES) == set(LAYOUTS)


class TestKeys:
    """Splits, shards and keys."""

    def test_they_are_the_same_whenever_the_source_is_opened(self, case):
        one, other = case.open(), case.open()
        assert [one.shards(split) for split in SPLITS] == [other.shards(split) for split in SPLITS]

    def test_they_are_unique_over_all_splits(self, case):
        source = case.open()
        keys = [key for split in SPLITS for key in keys_of(source, split)]
        assert keys_of(source, "train")
        assert keys_of(source, "test")
        assert len(set(keys)) == len(keys)
        assert not any(sign in key for key in keys for sign in "./\\")

    def test_shards_of_a_split_have_names_of_their_own_without_slashes(self, case):
        source = case.open()
        for split in SPLITS:
            names = [shard.name for shard in source.shards(split)]
            assert len(set(names)) == len(names)
            assert not any("/" in name for name in names)

    def test_a_limit_of_labelled_samples_is_respected(self, case):
        everything = keys_of(case.open(), "train")
        limited = case.open(num_labelled=1)
        assert len(keys_of(limited, "train")) == 1
        assert set(keys_of(limited, "train")) <= set(everything)
        assert len(list(read_split(limited))) == 1
        assert not {*keys_of(limited, "train")} & {*keys_of(limited, "unlabelled")}


class TestSamples:
    """What is read."""

    def test_they_come_in_order_with_the_tasks_asked_for(self, case):
        source = case.open()
        for split in ("train", "test"):
            samples = list(read_split(source, split))
            assert [sample.key for sample in samples] == keys_of(source, split)
            assert all(set(sample.labels) == set(case.tasks) for sample in samples)
            assert not any(sample.is_synthetic for sample in samples)

    def test_images_and_labels_are_encoded_as_the_schema_says_and_of_one_size(self, case):
        source = case.open()
        for split in ("train", "test"):
            for sample in read_split(source, split):
                assert sample.image.shape == (*source.image_size, 3)
                check_encodings(sample, source.num_classes)

    def test_pixels_without_a_value_hold_the_invalid_value_of_their_task(self, case):
        samples = list(read_split(case.open()))
        for task in set(case.tasks) - case.always_valid:
            label = np.stack([sample.labels[task] for sample in samples])
            is_invalid = label == INVALID_VALUES[TASK_KINDS[task]]
            assert (is_invalid.all(axis=-1) if label.ndim == 4 else is_invalid).any(), task

    def test_some_keys_in_any_order_give_the_same_samples_as_all(self, case):
        source = case.open()
        shard = source.shards("train")[0]
        whole = {sample.key: sample for sample in source.read(shard)}
        chosen = list(reversed(shard.keys))[:2]
        found = list(case.open().read(shard, chosen))
        assert [sample.key for sample in found] == chosen
        for sample in found:
            assert_equal(sample, whole[sample.key])

    def test_a_label_is_the_same_whether_others_are_asked_for_or_not(self, case):
        whole = next(read_split(case.open()))
        for task in case.tasks:
            sample = next(read_split(case.open(tasks=(task,))))
            assert set(sample.labels) == {task}
            np.testing.assert_array_equal(sample.labels[task], whole.labels[task])
            np.testing.assert_array_equal(sample.image, whole.image)


class TestLabelsLeftOut:
    """Labels of training images may be dealt, of every source."""

    @pytest.fixture(params=["one", "random"])
    def regime(self, request, case) -> LabelsSection:
        if min(len(case.tasks), len(keys_of(case.open(), "train"))) < 2:
            pytest.skip("nothing to deal")
        # Two tasks: every small copy has images enough that each gets a label of ``one``.
        return LabelsSection(regime=request.param, tasks=case.tasks[:2])

    def test_what_a_source_says_of_labels_is_what_it_reads(self, case):
        source = case.open()
        for shard in source.shards("train"):
            for sample in source.read(shard):
                assert set(source.tasks_of(shard, sample.key)) == set(sample.labels)

    def test_each_training_image_has_one_of_two_labels_and_the_others_have_both(self, case, regime):
        one, other = (self.labels_of(case, regime, "train") for _ in range(2))
        assert one == other
        assert {len(tasks) for tasks in one.values()} == {1}
        assert {len(tasks) for tasks in self.labels_of(case, regime, "test").values()} == {2}

    def test_a_run_of_one_of_the_tasks_sees_its_own_share(self, case, regime):
        together = self.labels_of(case, regime, "train")
        for task in regime.tasks:
            source = case.open(tasks=(task,), labels=regime)
            alone = {sample.key: set(sample.labels) for sample in read_split(source)}
            assert alone == {key: tasks & {task} for key, tasks in together.items()}

    def labels_of(self, case: Case, regime: LabelsSection, split: Split) -> dict[str, set[Task]]:
        source = case.open(tasks=regime.tasks, labels=regime)
        return {sample.key: set(sample.labels) for sample in read_split(source, split)}


class TestFailures:
    """What cannot be read."""

    def test_a_key_that_is_not_there_is_an_unreadable_sample(self, case):
        source = case.open()
        shard = source.shards("train")[0]
        first, missing = source.read(shard, [shard.keys[0], "no_such_key"])
        assert isinstance(first, Sample)
        assert isinstance(missing, UnreadableSample)
        assert (missing.key, missing.reason) == ("no_such_key", "key_missing")
        assert "no_such_key" in missing.detail

    def test_a_torn_image_is_an_unreadable_sample_and_the_others_go_on(self, own_case):
        key, *others = keys_of(own_case.open(), "train")
        tear_image(own_case, key)
        source = own_case.open()
        bad, *good = [found for shard in source.shards("train") for found in source.read(shard)]
        assert isinstance(bad, UnreadableSample)
        assert (bad.key, bad.reason) == (key, "decode_failed")
        assert bad.uri
        assert bad.detail
        assert [sample.key for sample in good] == others
        assert all(isinstance(sample, Sample) for sample in good)

    def test_a_shard_that_its_digest_does_not_fit_is_not_read(self, own_case):
        if own_case.config.kind == "folder":
            pytest.skip("files of one's own have no digests")
        source = own_case.open()
        shard = source.shards("train")[0]
        tar = own_case.root / f"{shard.name}.tar"
        tar.write_bytes(tar.read_bytes()[:-1024])
        with pytest.raises(SourceError, match=rf"{tar.name}: wanted sha256"):
            next(iter(source.read(shard)))

    def test_a_source_that_is_not_there_names_the_field(self, case, tmp_path):
        field = "description" if case.config.kind == "folder" else "root"
        config = case.config.model_copy(update={field: str(tmp_path / "nowhere")})
        with pytest.raises(SourceError, match=rf"source\.{field} = .*nowhere.*; \w+"):
            open_source(config, case.tasks)

    def test_a_task_without_labels_names_the_field(self, own_case):
        missing: Task = next((task for task in TASKS if task not in own_case.tasks), "saliency")
        if own_case.config.kind == "folder":
            path = Path(own_case.config.description)
            tree = yaml.safe_load(path.read_text())
            del tree["labels"][missing]
            path.write_text(yaml.safe_dump(tree))
        with pytest.raises(
            UserError, match=rf"(?s){missing}.*method\.tasks|method\.tasks.*{missing}"
        ):
            own_case.open(tasks=(missing,))

    def test_more_classes_than_the_predictor_has_are_an_error(self, case):
        if "semseg" not in case.tasks:
            pytest.skip("no classes")
        count = case.open().num_classes
        assert open_source(case.config, ("semseg",), num_classes=count).num_classes == count
        with pytest.raises(ConfigError, match=rf"set method\.num_classes={count}"):
            open_source(case.config, ("semseg",), num_classes=count - 1)


class TestLayouts:
    """Published data sets, before they become shards."""

    @pytest.mark.parametrize("name", LAYOUTS)
    def test_a_copy_is_recognised_as_its_own_layout_only_and_keeps_the_protocol(
        self, name, tmp_path
    ):
        written = COPIES[name](tmp_path)
        before = sorted(tmp_path.rglob("*"))
        assert set(read_layout(name, tmp_path)) == set(written)
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "nyu_depth_v2"])
    def test_a_torn_file_is_a_failed_row_and_the_others_go_on(self, name, tmp_path):
        COPIES[name](tmp_path / "in")
        request = PrepareRequest(
            layout=name, root=tmp_path / "in", out=str(tmp_path / "out"), size=PADDED, fit="pad"
        )
        files = open_files(request)
        key, *others = files.splits()["train"]
        file = tmp_path / "in" / files.read(key).meta["file"]
        file.write_bytes(b"torn")
        prepared = prepare(request, files)
        assert [failed for failed, _ in prepared.failures] == [key]
        assert str(file) in prepared.failures[0][1]
        assert dict(prepared.tallies["train"].failed) == {"decode_failed": 1}
        config = ShardsSource(root=request.out, validation_fraction=0.0)
        assert keys_of(open_source(config, ()), "train") == others


def tear_image(case: Case, key: str) -> None:
    """Replace an image by bytes that are none; a shard's digest in the manifest follows."""
    if case.config.kind == "folder":
        (case.root / "rgb" / f"{key}.png").write_bytes(b"torn")
        return
    table = pq.read_table(case.root / "manifest.parquet")
    rows = table.to_pylist()
    shard = next(row["shard"] for row in rows if row["key"] == key)
    members = dict(read_tar((case.root / shard).read_bytes()))
    members[key]["image.png"] = b"torn"
    packed = pack_tar(members.items())
    (case.root / shard).write_bytes(packed.data)
    for row in rows:
        if row["shard"] == shard:
            row["tar_sha256"] = packed.sha256
    buffer = io.BytesIO()
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), buffer)
    (case.root / "manifest.parquet").write_bytes(buffer.getvalue())
