"""The first ten minutes with a folder: a description and a configuration for this machine."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from runs.checks.place import expect_writable_folder
from runs.checks.start import expect_startable
from runs.generation import plan_of
from runs.state import ALL_ROLES
from schemas.errors import ConfigError
from sources.open import open_run_source
from storage.files.stores import open_store

if TYPE_CHECKING:
    from pathlib import Path

    from runs.checks.start import Startable
    from schemas.config import RunConfig
    from sources.recognise.folder import Recognised

DESCRIPTION_FILE = "folder.yaml"
CONFIG_FILE = "config.yaml"
PICTURE_FILE = "understood.png"

_SIZE_PX = (64, 64)
_MANY_IMAGES = 64
_LINE = 100
_DESCRIPTION_HEAD = """\
# What jobs/new_run.py understood of {root}; docs/howto-your-own-folder.md has all fields.
"""
_DESCRIPTION_FIT = """\
# crop: the middle of each image in the aspect of size, the rest is cut off. stretch: all of it.
fit: crop
"""
_CONFIG_HEAD = """\
# A first run that ends within minutes on this machine, with the shipped starter models, which know
# rendered rooms alone: it shows that the data are right, not what good models reach. For real
# results name your own models (model.diffusion, model.captioner_path), set size: [512, 512] in
# {description}, take source.num_* out, and train longer: docs/full_size.md.
"""


_NO_CAPTIONS = "captioner: none\n"
_NO_CAPTIONS_WORDS = f"""\
# none: images are made without a text. blip2, with model.captioner_path, describes each image.
  {_NO_CAPTIONS}"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What a run may use.

    Attributes:
        num_gpus: CUDA devices.
    """

    num_gpus: int

    @staticmethod
    def here() -> Machine:
        """This machine."""
        import torch

        return Machine(num_gpus=torch.cuda.device_count())


def expect_new(out: Path, root: Path) -> None:
    """Refuse a folder for the output that is in use, within the photographs, or not writable.

    Raises:
        ConfigError: If it is one of these.
    """
    if out.resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"--out {out}: lies in the folder of the images; choose one elsewhere")
    expect_writable_folder(out, "--out")
    taken = [
        name for name in (DESCRIPTION_FILE, CONFIG_FILE, PICTURE_FILE) if (out / name).exists()
    ]
    if taken:
        raise ConfigError(f"--out {out}: holds {taken[0]} already; choose another folder")


def describe_fit(found: Recognised) -> str:
    """What becomes of the images' borders; "" if their aspect is that of training."""
    (height, width), (rows, columns) = found.image[1].size, _SIZE_PX
    if height * columns == width * rows:
        return ""
    sides = "sides" if width * rows > height * columns else "top and bottom"
    return (
        f"{width}×{height} → {columns}×{rows}: the {sides} are cut off (fit: crop in "
        f"{DESCRIPTION_FILE}; stretch keeps all)"
    )


def describe_limit(found: Recognised) -> str:
    """How many images are learnt from, if not all; "" else."""
    if found.num_training <= _MANY_IMAGES:
        return ""
    return (
        f"of {found.num_training} labelled images, those held out included, this first run learns "
        f"from {_MANY_IMAGES} at most: source.num_labelled in {CONFIG_FILE}"
    )


def write_new_run(found: Recognised, out: Path, machine: Machine) -> Path:
    """Write a description and a configuration.

    Args:
        out: Folder for both; the run will lie in it too.

    Returns:
        The configuration's file.

    Raises:
        ConfigError: If the folder is in use, or within the photographs.
    """
    expect_new(out, found.root)
    out.mkdir(parents=True, exist_ok=True)
    description = out / DESCRIPTION_FILE
    head = _DESCRIPTION_HEAD.format(root=found.root)
    text = head + _as_yaml(found.description(size=_SIZE_PX)) + _DESCRIPTION_FIT
    description.write_text(text, encoding="utf-8")
    config = out / CONFIG_FILE
    head = _CONFIG_HEAD.format(description=description.name)
    text = head + _as_yaml(configuration(found, out, machine))
    config.write_text(text.replace(_NO_CAPTIONS, _NO_CAPTIONS_WORDS), encoding="utf-8")
    return config


def remove_new_run(out: Path) -> None:
    """Take away what :func:`write_new_run` and its picture left, and the folder if it is empty."""
    for name in (DESCRIPTION_FILE, CONFIG_FILE, PICTURE_FILE):
        (out / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        out.rmdir()


def configuration(found: Recognised, out: Path, machine: Machine) -> dict[str, Any]:
    """A run on a folder that ends within minutes.

    Args:
        out: Folder of the description, and of the run.
    """
    tasks = list(found.labels)
    method: dict[str, Any] = {"name": "bae", "tasks": tasks}
    if "semseg" in found.labels:
        method["num_classes"] = found.labels["semseg"][1].fields["num_classes"]
        if found.class_names:
            method["class_names"] = list(found.class_names)
    count = min(found.num_training, _MANY_IMAGES)
    source: dict[str, Any] = {"kind": "folder", "description": str(out / DESCRIPTION_FILE)}
    if found.num_training > _MANY_IMAGES:
        source |= {"num_labelled": _MANY_IMAGES, "num_validation": 32, "num_test": 64}
    batch = min(16, 1 << (max(count, 1).bit_length() - 1))
    stage = {"batch_size": batch, "lr_warm_up_steps": 10}
    tree: dict[str, Any] = {
        "run": {"url": str(out / "run")},
        "model": {
            "diffusion": "starter/diffusion",
            "captioner": "source" if found.captions else "none",
        },
        "source": source,
        "method": method,
        "creator": {"num_steps": 20, "batch_size": 8},
        "plan": {"rounds": 2, "unit_size": 8},
        "training": {
            "warm_up": {"steps": 200, **stage, "learning_rate": 2.0e-3, "lr_final_fraction": 0.05},
            "self_improve": {"steps": 150, **stage, "learning_rate": 1.0e-3},
            "ema": {"decay": 0.95},
            "publish_every_images": 50 * batch,
        },
    }
    if "normals" in tasks:
        tree["screening"] = {"max_expected_error_deg": 90.0}
    if machine.num_gpus:
        tree["training"]["use_gpu"] = True
    if machine.num_gpus > 1:
        tree["generation"] = {"gpus_per_generator": 1.0, "num_generators": machine.num_gpus - 1}
    return tree


def check_new_run(config: RunConfig) -> Startable:
    """Check what was written as a dry run does.

    Raises:
        ConfigError: If a value does not fit this machine or the models.
        SourceError: If the data cannot be read or learnt from.
    """
    store, source = open_store(config.run.url), open_run_source(config)
    plan = plan_of(config, source)
    return expect_startable(config, store, source, roles=ALL_ROLES, plan=plan, is_dry=True)


def _as_yaml(tree: dict[str, Any]) -> str:
    text: str = yaml.dump(
        tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2 * _LINE
    )
    return text


class _Dumper(yaml.SafeDumper):
    """Writes lists in one line where they fit."""


def _list_of(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    is_short = len(str(values)) < _LINE and not any(isinstance(one, dict | list) for one in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=is_short)


_Dumper.add_representer(list, _list_of)
