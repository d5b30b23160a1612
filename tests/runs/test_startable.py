"""What a run would die of later is said before it begins, and its directory stays untouched."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from jobs.self_improve import main
from runs.checks.place import expect_place
from runs.directory import claim_run_directory
from schemas.config_file import load_config
from schemas.errors import SourceError, UserError
from storage.files.stores import open_store
from storage.records.captions import CaptionRow, write_captions
from tests.kit.startable_run import KEYS, StartableRun, classes, startable_run
from trainers.train_stage import train_stage_locally

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def whole(tmp_path, monkeypatch) -> Iterator[StartableRun]:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield startable_run(tmp_path)
    left = [path.name for path in tmp_path.rglob(".*")]
    assert not left, "the probe of the directory leaves nothing"


def set_method(**values: object) -> Callable[[StartableRun], None]:
    return lambda run: run.config["method"].update(values)


def set_model(**values: object) -> Callable[[StartableRun], None]:
    return lambda run: run.config["model"].update(values)


def set_source(**values: object) -> Callable[[StartableRun], None]:
    return lambda run: run.config["source"].update(values)


def set_training(**values: object) -> Callable[[StartableRun], None]:
    return lambda run: run.config["training"].update(values)


def describe(**values: object) -> Callable[[StartableRun], None]:
    return lambda run: run.description.update(values)


def put_run_at(place: str) -> Callable[[StartableRun], None]:
    return lambda run: run.config["run"].update(url=place.format(root=run.root))


def without_split(name: str) -> Callable[[StartableRun], None]:
    return lambda run: run.description["splits"].pop(name)


def lfs_pointer(run: StartableRun) -> None:
    file = run.copy_model("diffusion") / "unet/diffusion_pytorch_model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def cut_off_weights(run: StartableRun) -> None:
    file = run.copy_model("diffusion") / "vae/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def captions_by_other_names(run: StartableRun) -> None:
    path = run.root / "captions.json"
    path.write_text(json.dumps({f"photo{key}.png": "a room" for key in KEYS}))
    run.config["model"] |= {"captioner": "file", "captioner_path": str(path)}


def grey_depth(run: StartableRun) -> None:
    run.rewrite_labels("depth", lambda seed: classes(seed) + 100)


def grey_depth_in_test(run: StartableRun) -> None:
    run.rewrite_labels("depth", lambda seed: classes(seed) + 100, keys=KEYS[-2:])


def empty_depth(run: StartableRun) -> None:
    run.rewrite_labels("depth", lambda _: np.zeros((32, 32), np.uint16))


def class_out_of_range(run: StartableRun) -> None:
    run.rewrite_labels("semseg", lambda seed: classes(seed) + 7)


def other_size(run: StartableRun) -> None:
    run.rewrite_labels("depth", lambda _: np.full((32, 40), 2000, np.uint16), keys=KEYS[:1])


def label_missing(run: StartableRun) -> None:
    (run.root / f"depth/{KEYS[3]}.png").unlink()


def run_below_a_file(run: StartableRun) -> None:
    (run.root / "file").write_text("")
    put_run_at("{root}/file/run")(run)


def few_held_out(run: StartableRun) -> None:
    run.description["splits"] = {
        "train": {"range": [0, 2]},
        "test": {"hold_out": {"every": 4}},
    }


BROKEN = {
    "a hold-out that takes no image": (
        few_held_out,
        r"splits\.test\.hold_out \(every: 4\) takes none of the 3 images",
    ),
    "a host without the task": (set_method(name="idisc"), r"idisc predicts .* found \['semseg'\]"),
    "a host for normals": (set_method(name="bae_efficientnet"), "predicts normals alone"),
    "a host without depth's classes": (set_method(name="vpd", tasks=["boundaries"]), "boundaries"),
    "a size that the autoencoder does not divide": (
        describe(size=[30, 32]),
        "divisible by 4.*size",
    ),
    "a size that no memory takes": (
        describe(size=[16384, 16384]),
        r"images of 16384 x 16384.*size: .* smaller",
    ),
    "fewer classes than labelled": (set_method(num_classes=2), "method.num_classes = 2.*3 classes"),
    "a tuned network in float16": (
        set_method(backbone_tuning="full"),
        "small gradients vanish; set model.dtype",
    ),
    "no attention to tune": (set_method(backbone_tuning="lora", lora_rank=0), "lora_rank"),
    "no such device": (set_model(device="gpu"), "model.device = gpu: no device"),
    "no split test": (without_split("test"), "images of split test to score, found none"),
    "no test images used": (set_source(num_test=0), "set source.num_test above 0"),
    "no diffusion model": (set_model(diffusion="gone/model"), "model.diffusion = gone/model"),
    "a Git LFS pointer": (lfs_pointer, "(?i)git.lfs"),
    "weights that are cut off": (cut_off_weights, "vae.*(header|bytes)"),
    "a captioner that is none": (
        lambda run: run.config["model"].update(
            captioner="blip2", captioner_path=run.config["model"]["diffusion"]
        ),
        "model.captioner_path",
    ),
    "captions by other names": (
        captions_by_other_names,
        r"8 of 8 .* first is '0000' .*'photo0000\.png'",
    ),
    "captions that are not there": (
        set_model(captioner="file", captioner_path="gone.json"),
        "model.captioner_path = gone.json: .*gone.json: wanted a JSON file",
    ),
    "depth in 8 bits": (grey_depth, "depth"),
    "depth in 8 bits in the test split": (grey_depth_in_test, "test.*depth"),
    "depth without a value": (empty_depth, "depth"),
    "classes that are not described": (class_out_of_range, "class_id_out_of_range|stored id"),
    "a label of another size": (other_size, r"40 x 32.*wanted equal"),
    "a label that is not there": (label_missing, "1 of .* files are missing, the first is .*0003"),
    "no images without labels": (
        lambda run: run.config["creator"].update(kind="unlabelled"),
        "wants 8 images without",
    ),
    "more samples than are made": (
        set_training(min_synthetic_samples=99),
        "min_synthetic_samples = 99",
    ),
    "no run to learn from": (set_training(synthetic_run="gone"), "training.synthetic_run: .*gone"),
    "a directory below a file": (run_below_a_file, "file is no folder"),
    "a directory that cannot be written": (put_run_at("/proc/run"), "/proc cannot be written"),
    "a directory in Ray's copy of the code": (
        put_run_at("{root}/working_dir_files/_ray_pkg_1/run"),
        "--set run.url=/absolute/folder",
    ),
    "no GPU to train on": (set_training(use_gpu=True), r"training.use_gpu: .* found 0 on"),
    "no GPU to generate on": (
        lambda run: run.config.update(generation={"gpus_per_generator": 0.5}),
        "generation.gpus_per_generator: .* found 0 on",
    ),
    "no CUDA": (set_model(device="cuda"), r"model.device = cuda: this machine has no GPU"),
}


def labels_of(**labels: object) -> Callable[[StartableRun], None]:
    return set_source(labels=labels)


def listed(tree: object) -> Callable[[StartableRun], None]:
    def write(run: StartableRun) -> None:
        (run.root / "labels.json").write_text(json.dumps(tree))
        labels_of(regime="file", file=str(run.root / "labels.json"))(run)

    return write


def mixed(**second: object) -> Callable[[StartableRun], None]:
    """Take the folder twice: once for depth, once for what a test says."""

    def mix(run: StartableRun) -> None:
        folder = run.config["source"]
        members = [
            {"name": "one", "tasks": ["depth"], "source": folder},
            {"name": "other", "tasks": ["semseg"], "source": folder, **second},
        ]
        run.config["source"] = {"kind": "mix", "members": members}

    return mix


BROKEN |= {
    "a regime without tasks": (
        labels_of(regime="one"),
        r"source\.labels.*: regime = one, tasks = \[\]: wanted at least 2 tasks",
    ),
    "a task that nobody is dealt": (
        labels_of(regime="random", tasks=["depth", "normals"]),
        r"source\.labels\.tasks = .*: nobody labels semseg of method\.tasks; add it",
    ),
    "a list of other images": (
        listed({"0000": ["depth", "semseg"], "photo": ["depth"]}),
        r"source\.labels\.file = .*: 1 of 2 keys are not in source folder, such as 'photo'",
    ),
    "a list of other tasks": (
        listed({"0000": ["depth", "classes"]}),
        "'0000': unknown task 'classes'; known: normals, depth",
    ),
    "a list without a task": (
        listed({"0000": ["depth"]}),
        r"source\.labels\.regime = file: nobody labels semseg in the 8 images of train",
    ),
    "no list": (labels_of(regime="file", file="gone.json"), r"file = gone\.json: no such file"),
    "nothing to complete": (
        lambda run: run.config["creator"].update(kind="completion"),
        r"creator\.kind = completion: all 8 training images have labels of all",
    ),
    "classes that do not map": (
        mixed(class_map={0: 0}),
        r"source\.members: other: class_map: 2 of 3 classes do not map, such as 1, 2",
    ),
    "a member of no kind": (
        mixed(source={"kind": "album", "description": "a.yaml"}),
        r"source.*members\.1\.source\.kind = 'album': wanted one of rooms, folder, shards",
    ),
    "two members of one name": (mixed(name="one"), "one is given twice; give each member a name"),
    "a task of no member": (
        mixed(tasks=["depth"]),
        r"source\.members: nobody labels semseg of method\.tasks",
    ),
}
NEEDS_NO_GPU = {"no GPU to train on", "no GPU to generate on", "no CUDA"}


def test_a_run_that_nothing_forbids_tells_its_plan_and_writes_nothing(whole, capsys):
    main([*whole.arguments(), "--dry-run"])
    told = capsys.readouterr().out
    assert "looked at 8 of 8 train, 2 of 2 validation, 2 of 2 test" in told
    assert "all: 2 units" in told
    assert not whole.run.exists()


def test_a_limit_above_what_there_is_is_told(whole, capsys):
    whole.config["source"]["num_labelled"] = 500
    main([*whole.arguments(), "--dry-run"])
    told = capsys.readouterr().out
    assert "warning: source.num_labelled = 500: train has 8 images, all are used" in told


def test_labels_that_are_dealt_are_counted_and_their_lack_is_no_fault(whole, capsys):
    labels_of(regime="one", tasks=["depth", "semseg"])(whole)
    main([*whole.arguments(), "--dry-run"])
    told = capsys.readouterr().out
    assert "labels of train: depth 4, semseg 4" in told
    assert "labels of test: depth 2, semseg 2" in told
    assert "images have no such label" not in told


def test_the_labels_of_a_mix_are_those_of_its_members(whole, capsys):
    mixed()(whole)
    main([*whole.arguments(), "--dry-run"])
    told = capsys.readouterr().out
    assert "looked at 16 of 16 train, 4 of 4 validation, 4 of 4 test" in told
    assert "labels of train: depth 8, semseg 8" in told
    assert "images have no such label" not in told


@pytest.mark.slow
def test_images_that_the_models_do_not_know_are_told_before_the_run(whole, capsys):
    folder = whole.copy_model("diffusion")
    content = {"what": "rooms", "image_size": [32, 32], "least_psnr_db": 99}
    (folder / "known_images.json").write_text(json.dumps(content))
    main([*whole.arguments(), "--dry-run"])
    told = " ".join(capsys.readouterr().out.split())
    assert "warning: 8 of 8 images looked at are unlike what the models know (rooms)" in told


@pytest.mark.parametrize("name", BROKEN)
def test_a_dry_run_says_what_the_run_would_die_of(name, whole):
    expect_refused(name, whole, "--dry-run")


@pytest.mark.parametrize(
    "name", ["a host without the task", "no split test", "depth in 8 bits", "no CUDA"]
)
def test_the_start_says_the_same_before_ray_is_started(name, whole):
    expect_refused(name, whole)


def expect_refused(name: str, whole: StartableRun, *options: str) -> None:
    if name in NEEDS_NO_GPU and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    break_it, words = BROKEN[name]
    if name == "a tuned network in float16":
        whole.config["model"]["dtype"] = "float16"
    break_it(whole)
    with pytest.raises(UserError, match=f"(?s){words}"):
        main([*whole.arguments(), *options])
    assert not whole.run.exists()


def caption(run: StartableRun) -> None:
    """Begin a run as far as its first captions."""
    store = open_store(str(run.run))
    claim_run_directory(store, load_config(run.arguments()[1]))
    write_captions(store, "train-000000", [CaptionRow("0000", "a room", "none")])


def test_the_directory_of_another_configuration_is_refused_and_every_field_is_named(whole):
    caption(whole)
    before = sorted(whole.run.rglob("*"))
    whole.config["run"]["seed"] = 3
    whole.config["plan"]["variants"] = 2
    arguments = whole.arguments()
    for options in (["--dry-run"], []):
        with pytest.raises(UserError, match=r"(?s)run\.seed: there 0, now 3.*plan\.variants"):
            main([*arguments, *options])
    assert sorted(whole.run.rglob("*")) == before


def test_a_directory_for_which_nothing_was_made_takes_another_configuration(whole, capsys):
    claim_run_directory(open_store(str(whole.run)), load_config(whole.arguments()[1]))
    whole.config["run"]["seed"] = 3
    main([*whole.arguments(), "--dry-run"])
    assert "run.seed: there 0, now 3" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["{root}", "{root}/rgb", "{root}/letters"])
def test_a_directory_that_holds_other_files_is_no_place_for_a_run(whole, place):
    letters = whole.root / "letters"
    letters.mkdir()
    (letters / "config.resolved.yaml").write_text("printer: fast")
    put_run_at(place)(whole)
    with pytest.raises(UserError, match=r"run\.url = .* such as .*into a new or an empty folder"):
        main(["--dry-run", *whole.arguments()])
    assert (letters / "config.resolved.yaml").read_text() == "printer: fast"


def test_an_empty_directory_or_one_with_a_log_is_a_place_for_a_run(whole):
    whole.run.mkdir()
    expect_place(open_store(str(whole.run)))
    (whole.run / "first.log").write_text("")
    expect_place(open_store(str(whole.run)))


def test_a_directory_with_the_weights_of_a_stage_trained_elsewhere_is_a_place_for_a_run(whole):
    config = load_config(whole.arguments()[1], ("training.warm_up.steps=1",))
    train_stage_locally(config, "warm_up")
    expect_place(open_store(str(whole.run)))


def test_a_missing_validation_split_is_no_reason_to_refuse(whole):
    del whole.description["splits"]["validation"]
    main([*whole.arguments(), "--dry-run"])


def test_some_captions_may_be_missing_and_are_counted(whole, capsys):
    path = whole.root / "captions.json"
    path.write_text(json.dumps(dict.fromkeys(KEYS[1:], "a room")))
    whole.config["model"] |= {"captioner": "file", "captioner_path": str(path)}
    main([*whole.arguments(), "--dry-run"])
    assert "1 of 8 training images have no caption there, the first is '0000'" in (
        capsys.readouterr().out
    )


def test_empty_captions_of_a_file_are_counted(whole, capsys):
    path = whole.root / "captions.json"
    path.write_text(json.dumps(dict.fromkeys(KEYS, "")))
    whole.config["model"] |= {"captioner": "file", "captioner_path": str(path)}
    main([*whole.arguments(), "--dry-run"])
    said = " ".join(capsys.readouterr().out.split())
    assert "8 of 8 training images have an empty caption, the first is '0000'" in said


def test_a_source_without_captions_is_named_if_its_captions_are_wanted(whole, capsys):
    whole.config["model"]["captioner"] = "source"
    main([*whole.arguments(), "--dry-run"])
    assert "8 of 8 training images looked at have no caption" in capsys.readouterr().out


def nobody_listens() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (f"127.0.0.1:{nobody_listens()}", "no Ray cluster answers there"),
        (f"ray://127.0.0.1:{nobody_listens()}", "no Ray cluster answers there"),
        ("http://127.0.0.1:8265", "ray job submit sends jobs, not a cluster"),
        ("127.0.0.1:many", "start that cluster, correct the address"),
    ],
    ids=["dead", "dead client", "job server", "no port"],
)
def test_a_cluster_that_does_not_answer_is_a_warning_of_the_dry_run_and_stops_the_start(
    address, words, whole, monkeypatch, capsys
):
    monkeypatch.setenv("RAY_ADDRESS", address)
    main([*whole.arguments(), "--dry-run"])
    assert words in capsys.readouterr().out
    with pytest.raises(UserError, match=f"{words}.*ray.address=local"):
        main(whole.arguments())
    assert not whole.run.exists()


def test_a_temporary_folder_that_is_too_long_for_rays_sockets_is_refused(whole, monkeypatch):
    long = whole.root / ("x" * 120)
    long.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    with pytest.raises(UserError, match=r"too long for the sockets.*set RAY_TMPDIR=/tmp"):
        main(whole.arguments())


def test_a_home_that_is_not_ones_own_is_refused_where_ray_writes_its_token(whole, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setenv("HOME", str(whole.root / "no/home"))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(UserError, match=r"HOME = .*set HOME to a folder of yours"):
        main(whole.arguments())


SHIPPED = sorted(
    path
    for folder in (CONFIGS, CONFIGS / "methods", CONFIGS / "pairs")
    for path in folder.glob("*.yaml")
    if "run" in yaml.safe_load(path.read_text())
)


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_configuration_may_be_started_or_names_the_data_that_it_lacks(
    path, tmp_path, monkeypatch, capsys
):
    monkeypatch.delenv("NYUV2_DIR", raising=False)
    arguments = ["--config", str(path), "--set", f"run.url={tmp_path}/run", "--dry-run"]
    if load_config(path).source.kind == "rooms":
        main(arguments)
        told = capsys.readouterr().out
        assert "units (0 committed)" in told
        assert "error" not in told
    else:
        with pytest.raises(SourceError, match=r"NYUV2_DIR|jobs/prepare\.py"):
            main(arguments)
    assert not (tmp_path / "run").exists()
