"""Write what a run's weights make as files: predictions for images, and labelled images."""

from __future__ import annotations

import errno
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.text import Text

from deployment.inputs import PREDICTIONS_FILE, SAMPLES_FILE, as_rgb
from runs.contact_sheet import make_contact_sheet, sheet_row
from runs.counting import counted
from runs.pictures import (
    MIN_CELL_PX,
    PictureRow,
    class_legend,
    describe_reliability,
    draw_rows,
    label_as_rgb,
    reliability_as_grey,
)
from schemas.errors import ConfigError, SampleError
from schemas.run_layout import CONTACT_SHEET_FILE
from schemas.sample import LABEL_MEMBERS, RELIABILITY_MEMBERS
from sources.class_names import class_names_of
from sources.folder_listing import is_hidden
from storage.samples.codecs import encode_label, encode_reliability_png, encode_sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image
    from rich.console import Console

    from deployment import LoadedRun
    from deployment.predictor import Prediction
    from schemas.sample import Sample, Task
    from sources.class_names import ClassNames
    from storage.files.stores import RunStore

MAX_HELD_BYTES = 64 * 2**20
"""Images read at a time, decoded; their predictions take about ten times as much."""

_OVERVIEW = "overview.png"
_SHOWN = 32
_LOOKED_AT = 16
_NAME_ERRORS = frozenset(
    {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EISDIR, errno.ENOTDIR}
)
"""What a store says of a name that it cannot take; other names may do."""
_MAX_CELL_PX = 512


def predict_files(
    run: LoadedRun,
    files: Mapping[str, Path],
    out: RunStore,
    *,
    tasks: Sequence[Task] = (),
    keeps_aspect: bool = False,
    averages_mirrored: bool = False,
    with_npy: bool = False,
    console: Console,
) -> list[dict[str, Any]]:
    """Predict for files, a few at a time, and write the results; ``predictions.json`` last.

    Args:
        files: Name of the results to image file.
        tasks: Some of the run's tasks; all if empty.
        keeps_aspect: Pad instead of stretching to the training size.
        averages_mirrored: Predict the mirror image too and average.
        console: Where an image that cannot be read is named.

    Returns:
        An entry for each file: its name, path and size, or the ``error`` why it was left out.

    Raises:
        ConfigError: If results of an earlier call would stay among the new ones.
    """
    members = _members(tasks or run.tasks, with_npy=with_npy)
    before = _expect_no_leftovers(out, files, members)
    entries: list[dict[str, Any]] = []
    names = class_names_of(run.config)
    told = False
    with counted("images") as on_done:
        for together in _read_together(files, entries, run.predictor.batch_size, console):
            if not told:
                told = True
                _tell_if_foreign(run, list(together.values()), console)
            found = run.predictor.predict(
                list(together.values()),
                seeds=[run.seed_of(files[name].name) for name in together],
                tasks=tasks,
                keeps_aspect=keeps_aspect,
                averages_mirrored=averages_mirrored,
            )
            waiting = {entry["name"]: entry for entry in entries if entry["name"] in together}
            for (name, image), each in zip(together.items(), found, strict=True):
                encoded = _encode_prediction(image, each, with_npy=with_npy, names=names)
                reason = _write(out, name, encoded)
                if reason:
                    _leave_out(waiting[name], reason, console)
            on_done(len(entries), len(files))
    for entry in entries:
        if "error" in entry:
            for path in {f"{entry['name']}.{member}" for member in members} & before:
                out.remove_file(path)
    content = {
        "run": run.store.url,
        "creation_version": run.weights.version,
        "creation_sha256": run.weights.sha256,
        "diffusion_base_hash": run.predictor.backbone.model_id,
        "tasks": run.tasks,
        "images": entries,
    }
    out.write_bytes(PREDICTIONS_FILE, _json(content))
    return entries


def write_samples(
    out: RunStore, made: Sequence[Sample], run: LoadedRun, *, real: NDArray[np.uint8] | None
) -> None:
    """Write the members of each sample, a contact sheet, and ``samples.json`` last.

    Args:
        made: At least one sample.
        real: uint8 RGB [H, W, 3], the image that they vary; None if there is none.
    """
    for sample in made:
        for member, data in encode_sample(sample).items():
            out.write_bytes(f"{sample.key}.{member}", data)
    rows = [sheet_row(sample, real=real, made=_how_made(sample.meta)) for sample in made[:_SHOWN]]
    sheet = make_contact_sheet(rows, names=class_names_of(run.config))
    out.write_bytes(CONTACT_SHEET_FILE, sheet)
    listed = [{"key": sample.key, "caption": sample.caption, **sample.meta} for sample in made]
    out.write_bytes(SAMPLES_FILE, _json({"run": run.store.url, "samples": listed}))


def draw_overview(
    image: NDArray[np.uint8],
    found: Prediction,
    *,
    names: Mapping[Task, Sequence[str]] | None = None,
) -> Image.Image:
    """Draw the image beside its predictions, and their reliability in grey below.

    Args:
        image: uint8 RGB [H, W, 3].
        names: Task to the names of its class ids, as far as they are known.

    Returns:
        RGB picture; reliability is white where surest, black where least sure.
    """
    tasks, sure = list(found), found.reliability
    labels = PictureRow(
        titles=["image", *tasks], images=[image, *(label_as_rgb(found[t], t) for t in tasks)]
    )
    below = PictureRow(
        titles=["", *(describe_reliability(sure[t], t) for t in tasks)],
        images=[None, *(reliability_as_grey(sure[t], t) for t in tasks)],
    )
    height, width = image.shape[:2]
    longer = max(height, width)
    scale = min(max(longer, MIN_CELL_PX), _MAX_CELL_PX) / longer
    cell_px = (max(1, round(width * scale)), max(1, round(height * scale)))
    legend = class_legend({task: [found[task]] for task in tasks}, names or {})
    return draw_rows([labels, below], cell_px=cell_px, legend=legend)


def _read_together(
    files: Mapping[str, Path], entries: list[dict[str, Any]], most: int, console: Console
) -> Iterator[dict[str, NDArray[np.uint8]]]:
    """Read images, as many at a time as memory holds with their predictions.

    Args:
        entries: Gets an entry for each file, with ``error`` if it cannot be read.
        console: Where an image that cannot be read is named.

    Yields:
        Name to uint8 RGB [H, W, 3].
    """
    held: dict[str, NDArray[np.uint8]] = {}
    for name, file in files.items():
        entry: dict[str, Any] = {"name": name, "file": str(file)}
        entries.append(entry)
        try:
            image = as_rgb(file)
        except (SampleError, OSError) as error:
            _leave_out(entry, str(error), console)
            continue
        entry["height"], entry["width"] = image.shape[:2]
        held[name] = image
        if len(held) == most or sum(each.size for each in held.values()) >= MAX_HELD_BYTES:
            yield held
            held = {}
    if held:
        yield held


def _tell_if_foreign(run: LoadedRun, images: Sequence[NDArray[np.uint8]], console: Console) -> None:
    """Warn of images that the run's models do not know."""
    if remark := run.remark_on(images[:_LOOKED_AT]):
        console.print(Text(f"warning: {remark}", style="yellow"), soft_wrap=True)


def _leave_out(entry: dict[str, Any], reason: str, console: Console) -> None:
    entry["error"] = reason
    # A name may hold what steers a terminal, and what rich takes for markup.
    file = str(entry["file"])
    named = file if file.isprintable() else ascii(file)
    console.print(Text(f"left out: {named}: {reason}", style="red"), soft_wrap=True)


def _members(tasks: Sequence[Task], *, with_npy: bool) -> list[str]:
    """The last parts of the names of an image's results."""
    pictures = [names[task] for names in (LABEL_MEMBERS, RELIABILITY_MEMBERS) for task in tasks]
    arrays = [f"{task}{part}.npy" for task in tasks for part in ("", "_confidence")]
    return [*pictures, *(arrays if with_npy else ()), _OVERVIEW]


def _expect_no_leftovers(
    out: RunStore, names: Iterable[str], members: Sequence[str]
) -> frozenset[str]:
    """Check that all that lies in a used folder will be written again.

    Returns:
        What lies there.

    Raises:
        ConfigError: If something would stay: nobody could tell it from the new results.
    """
    before = frozenset(path for path in out.find("") if not is_hidden(path.rpartition("/")[2]))
    new = {f"{name}.{member}" for name in names for member in members}
    stale = sorted(before - new - {PREDICTIONS_FILE})
    if stale:
        raise ConfigError(
            f"--out {out.url}: holds {len(stale)} files of an earlier call that this one would not "
            f"write again, such as {stale[0]}; name another folder, or remove this one"
        )
    return before


def _write(out: RunStore, name: str, encoded: Iterable[tuple[str, bytes]]) -> str:
    """Write an image's results; if the store does not take their names, none of them stays.

    Returns:
        Why they could not be written; "" if they were.

    Raises:
        OSError: If the store takes nothing at all.
    """
    written: list[str] = []
    try:
        for member, data in encoded:
            out.write_bytes(f"{name}.{member}", data)
            written.append(f"{name}.{member}")
    except OSError as error:
        if error.errno not in _NAME_ERRORS:
            raise
        for path in written:
            out.remove_file(path)
        return f"its results cannot be written: {error.strerror}; rename the image"
    return ""


def _encode_prediction(
    image: NDArray[np.uint8], found: Prediction, *, with_npy: bool, names: ClassNames
) -> Iterator[tuple[str, bytes]]:
    """Yield the last part of each file's name, and its content."""
    for task, label in found.items():
        yield LABEL_MEMBERS[task], encode_label(label, task)
        sure = found.reliability[task]
        yield RELIABILITY_MEMBERS[task], encode_reliability_png(sure, task=task)
        if with_npy:
            yield f"{task}.npy", _npy(label)
            yield f"{task}_confidence.npy", _npy(sure)
    buffer = io.BytesIO()
    draw_overview(image, found, names=names).save(buffer, format="PNG")
    yield _OVERVIEW, buffer.getvalue()


def _how_made(meta: Mapping[str, Any]) -> list[str]:
    version = meta["creation_version"]
    return [f"T = {meta['t_start']}, seed {meta['seed']}, weights version {version}"]


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
