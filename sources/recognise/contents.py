"""What the files of a collection hold, told from some of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from schemas.errors import SampleError
from schemas.sample import IGNORE_ID, Task
from sources.folder_description import USUAL_DEPTH_M
from sources.readers.stored import Stored, code_lengths, packed_colours, read_stored_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from sources.recognise.collections import Collection, Hint

    Array = NDArray[Any]

LOOKED_AT = 12
LOOKED_AT_FOR_CLASSES = 200
_MOST_IDS = 300
_MOST_COLOURS = 64
_UNITS: tuple[tuple[str, float, str], ...] = (
    ("mm", 1e-3, "millimetres"),
    ("cm", 1e-2, "centimetres"),
    ("1/256", 1 / 256, "1/256 m as KITTI stores it"),
    ("1/5000", 1 / 5000, "1/5000 m as TUM stores it"),
    ("m", 1.0, "metres"),
)
_SPARSE = 0.6

What = Literal["image", "label", "unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """What was understood.

    Attributes:
        what: Whether the files are photographs, labels, or nothing that can be used.
        task: Of labels: of which task.
        fields: Of labels: what a description has to say of them, without the pattern.
        said: What was found and as what it is taken, for people.
        doubt: What else it could be, and the field that says so; "" where there is no doubt.
        size: Height and width of the first.
    """

    what: What
    task: Task | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    said: str = ""
    doubt: str = ""
    size: tuple[int, int] = (0, 0)


def content_of(
    root: Path, collection: Collection, *, class_names: dict[int, str] | None = None
) -> Content:
    """Look at some files of a collection.

    Args:
        class_names: Names of stored class ids, if a file tells them.
    """
    found, problem = _read_some(root, collection, LOOKED_AT)
    if not found:
        return Content(what="unknown", said=f"cannot be read: {problem}")
    content = _of_kind(found, collection, class_names or {})
    if "num_classes" in content.fields and collection.count > LOOKED_AT:
        # Rare classes are in few files: a class that is not described would fail its samples.
        more, _ = _read_some(root, collection, LOOKED_AT_FOR_CLASSES)
        content = _of_kind(more, collection, class_names or {})
    height, width = found[0].values.shape[:2]
    return replace(content, size=(height, width))


def _read_some(root: Path, collection: Collection, limit: int) -> tuple[list[Stored], str]:
    found, problem = list[Stored](), ""
    for path in collection.spread(limit):
        try:
            num_channels = 3 if collection.hint == "normals" else 1
            found.append(read_stored_file(root / path, num_channels=num_channels))
        except SampleError as error:
            problem = problem or f"{path}: {error.detail}"
    return found, problem


def _of_kind(found: list[Stored], collection: Collection, names: dict[int, str]) -> Content:
    hint, first = collection.hint, found[0]
    if first.is_numbers:
        return _of_numbers(found, collection, names)
    is_grey = all(one.is_grey for one in found)
    if is_grey and (first.values.ndim == 2 or not _are_ids(found, _planes(found), hint)):
        return _of_grey(found, collection, names)
    if hint != "image" and not is_grey and _are_vectors(found):
        return _normals("colours that are unit vectors")
    if collection.hint in ("classes", "parts") or (hint != "image" and not first.is_lossy):
        colours = _colours(found)
        if 1 < len(colours) <= _MOST_COLOURS:
            return _of_colours(colours, first, hint)
    if hint in ("classes", "parts", "depth", "normals"):
        return Content(
            what="unknown",
            said=f"{first.words}: not understood as {hint}; describe it by hand "
            "(docs/howto-your-own-folder.md)",
        )
    return Content(what="image", said=f"photographs, {first.words}")


def _of_numbers(found: list[Stored], collection: Collection, names: dict[int, str]) -> Content:
    values, hint = [one.values for one in found], collection.hint
    words = found[0].words
    if any(one.ndim == 3 and one.shape[2] == 3 for one in values):
        lengths = np.concatenate([np.linalg.norm(one, axis=-1).ravel() for one in values])
        lengths = lengths[lengths > 0]
        if lengths.size and np.mean(np.abs(lengths - 1) < 0.1) > 0.8:
            return _normals(f"{words} that are unit vectors")
        return Content(what="unknown", said=f"{words}: three channels that are no unit vectors")
    flat = np.concatenate([one.ravel() for one in values])
    flat = flat[np.isfinite(flat)] if flat.dtype.kind == "f" else flat
    is_whole = flat.dtype.kind in "iub" or bool((flat == np.rint(flat)).all())
    if hint in ("saliency", "boundaries"):
        return _probability(hint, flat, words)
    if is_whole and hint != "depth" and flat.size and flat.min() >= 0 and flat.max() <= IGNORE_ID:
        return _of_ids(flat.astype(np.int64), words, hint, names)
    return _depth(flat, words, collection.name)


def _of_grey(found: list[Stored], collection: Collection, names: dict[int, str]) -> Content:
    hint, words = collection.hint, found[0].words
    flat = _planes(found)
    is_deep = found[0].values.dtype.itemsize > 1
    if hint in ("saliency", "boundaries"):
        return _probability(hint, flat, words)
    if hint == "depth" and not is_deep:
        return Content(
            what="unknown",
            said=f"{words}, {flat.min()} to {flat.max()}: 8 bits tell no lengths by themselves; "
            "say labels.depth.range: [nearest, farthest] in metres",
        )
    if found[0].is_lossy or (hint == "image" and not is_deep):
        return Content(what="image", said=f"photographs, {words}")
    if _are_ids(found, flat, hint):
        return _of_mixed_masks(found, hint) or _of_ids(flat.astype(np.int64), words, hint, names)
    if is_deep and hint in ("depth", ""):
        return _depth(flat, words, collection.name)
    what: What = "image" if hint in ("image", "") else "unknown"
    return Content(what=what, said=f"{words}, {flat.min()} to {flat.max()}")


def _planes(found: list[Stored]) -> Array:
    return np.concatenate([one.plane.ravel() for one in found])


def _are_ids(found: list[Stored], flat: Array, hint: Hint) -> bool:
    if found[0].is_lossy or flat.max() > IGNORE_ID or len(np.unique(flat)) > _MOST_IDS:
        return False
    return hint in ("classes", "parts") or (hint in ("", "normals") and _is_flat(found))


def _is_flat(found: list[Stored]) -> bool:
    """Whether neighbouring pixels are mostly equal, as in maps and not in photographs."""
    return all(float(np.mean(one.plane[:, 1:] == one.plane[:, :-1])) > 0.8 for one in found)


def _depth(flat: Array, words: str, name: str) -> Content:
    valid = flat[flat > 0]
    if not valid.size:
        return Content(what="unknown", said=f"{words}: every value is 0")
    median = float(np.median(valid))
    if flat.dtype.kind == "f":
        units = [each for each in _UNITS if each[0] in ("m", "mm", "cm")]
        units.sort(key=lambda each: each[0] != "m")
    else:
        units = list(_UNITS)
        if 1 - valid.size / flat.size > _SPARSE and valid.max() > 2**13:
            units.sort(key=lambda each: each[0] != "1/256")
    near, far = USUAL_DEPTH_M
    fitting = [each for each in units if near <= median * each[1] <= far]
    if not fitting:
        return Content(
            what="unknown",
            said=f"{words}, median {median:g}: no usual unit makes lengths of them; describe "
            "labels.depth by hand",
        )
    unit, step, unit_words = fitting[0]
    return Content(
        what="label",
        task="depth",
        fields={"unit": unit},
        said=f"{words}: taken as {unit_words} (median {median * step:.3g} m)",
        doubt=_other_units(median, fitting) if f"_{unit}" not in name else "",
    )


def _other_units(median: float, fitting: Sequence[tuple[str, float, str]]) -> str:
    """The likeliest other unit of whole numbers."""
    others = [each for each in fitting[1:] if "/" in each[0]]
    if not others:
        return ""
    unit, step, words = others[0]
    return f"if it is {words} (median {median * step:.2g} m), say unit: {unit}"


def _normals(said: str) -> Content:
    return Content(
        what="label",
        task="normals",
        said=f"{said}: x right, y up, z toward the camera",
    )


def _are_vectors(found: list[Stored]) -> bool:
    lengths = np.concatenate([code_lengths(one.values) for one in found])
    return bool(lengths.size) and float(np.mean(np.abs(lengths - 1) < 0.06)) > 0.8


def _probability(hint: Hint, flat: Array, words: str) -> Content:
    task: Task = "saliency" if hint == "saliency" else "boundaries"
    most = float(flat.max())
    top = 1.0 if most <= 1 else 255.0 if most <= IGNORE_ID else 65535.0
    return Content(
        what="label",
        task=task,
        fields={"max_value": top},
        said=f"{words}, up to {most:g}: probability 1 is taken to be {top:g}",
    )


def _of_ids(flat: Array, words: str, hint: Hint, names: dict[int, str]) -> Content:
    ids = [int(one) for one in np.unique(flat)]
    task: Task = "human_parts" if hint == "parts" else "semseg"
    some = ids if len(ids) < 10 else [*ids[:8], "…", ids[-1]]
    shown = ", ".join(map(str, some))
    said = f"{words}, ids {shown}"
    if len(ids) == 2 and ids[0] == 0 and ids[1] > 1:
        return Content(
            what="label",
            task=task,
            fields={"num_classes": 2, "id_map": {0: 0, ids[1]: 1}, "ignore": []},
            said=f"masks hold 0 and {ids[1]}: taken as background and class 1",
            doubt=f"if {ids[1]} is what nobody labelled, say ignore: [{ids[1]}]",
        )
    void = [id_ for id_, name in names.items() if _is_void(name)]
    ignore = sorted({id_ for id_ in ids if id_ == IGNORE_ID} | set(void))
    classes = sorted({id_ for id_ in ids if id_ not in ignore} | (set(names) - set(ignore)))
    if not classes:
        return Content(what="unknown", said=f"{said}: no class besides what is ignored")
    fields: dict[str, Any] = {"num_classes": classes[-1] + 1}
    doubt = ""
    if classes[0] == 1:
        fields = {"num_classes": classes[-1], "ignore": sorted({0, *ignore}), "id_offset": -1}
        what = f"is {names[0]}" if 0 in names else "does not occur"
        said += f": 0 {what} and is ignored, 1 to {classes[-1]} are the classes"
    elif ignore and ignore != [IGNORE_ID]:
        fields["ignore"] = ignore
        said += f": {', '.join(f'{i} ({names.get(i, i)})' for i in ignore)} ignored"
    elif IGNORE_ID in ignore:
        said += ": 255 is ignored"
    if 0 in classes and not names and len(ids) > 2:
        doubt = "0 is taken as a class: if it means unlabelled, say ignore: [0], id_offset: -1"
    return Content(what="label", task=task, fields=fields, said=said, doubt=doubt)


def _of_mixed_masks(found: list[Stored], hint: Hint) -> Content | None:
    """Masks of which some hold 0 and 255 and others 0 and 1; None if they are anything else.

    A file with both 1 and 255 says that 255 is no class: then it marks what is not labelled.
    """
    kinds = [frozenset(int(one) for one in np.unique(each.plane)) for each in found]
    of_255 = sum(kind in ({IGNORE_ID}, {0, IGNORE_ID}) for kind in kinds)
    of_1 = sum(kind in ({1}, {0, 1}) for kind in kinds)
    empty = sum(kind == {0} for kind in kinds)
    if not of_1 or of_255 < of_1 or of_255 + of_1 + empty < len(kinds):
        return None
    return Content(
        what="label",
        task="human_parts" if hint == "parts" else "semseg",
        fields={"num_classes": 2, "id_map": {0: 0, 1: 1, IGNORE_ID: 1}, "ignore": []},
        said=f"{of_255} masks hold 0 and {IGNORE_ID}, {of_1} hold 0 and 1: "
        "taken as background and class 1",
        doubt=f"look at these {of_1}; if {IGNORE_ID} is what nobody labelled, say "
        f"ignore: [{IGNORE_ID}] and take it out of id_map",
    )


def _is_void(name: str) -> bool:
    words = ("unlabel", "void", "ignore", "unknown", "unannotated", "don't care", "undefined")
    return name.lower().startswith(words)


def _colours(found: list[Stored]) -> list[int]:
    """Colours as red · 65536 + green · 256 + blue, black first, then by number."""
    packed: set[int] = set()
    for one in found:
        packed.update(int(code) for code in np.unique(packed_colours(one.values)))
        if len(packed) > 4 * _MOST_COLOURS:
            break
    return sorted(packed)


def _of_colours(colours: list[int], first: Stored, hint: Hint) -> Content:
    table = [f"#{colour:06x}" for colour in colours]
    return Content(
        what="label",
        task="human_parts" if hint == "parts" else "semseg",
        fields={"num_classes": len(table), "colors": table, "ignore": []},
        said=f"{first.words} of {len(table)} colours ({', '.join(table[:4])}"
        f"{', …' if len(table) > 4 else ''}): each is taken as a class, in this order",
        doubt="colours of other files, if there are any, have to be added to labels.semseg.colors",
    )
