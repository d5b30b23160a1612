"""What was found in a data set, and what is odd about it, in words that say what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.sample import TASK_KINDS, TASKS, Task
from sources.layouts.registry import find_layout
from sources.shard_folder import MANIFEST_FILE
from storage.samples.codecs import MAX_DEPTH_M

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sources.layouts.protocol import LabelledFiles
    from sources.prepare.prepare import Prepared, PrepareRequest
    from sources.prepare.tally import SplitTally, TaskTally
    from sources.protocol import Split

_LEAST_DEPTH_M = 0.5
_MOSTLY = 0.9
_NORM_TOLERANCE = 0.05
_LISTED = 10
_LEAST_IMAGES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What a data set should hold.

    Attributes:
        official_counts: Images by split as published; empty if unknown or only a part is wanted.
        num_classes: Classes of ``semseg``.
        class_names: Their names, if known.
        official_size: Height and width of the published images; None if unknown.
        size: Height and width that all samples were brought to; None: as stored.
        signs: Factors that the normals were multiplied with.
        depth_unit: Unit of ``depth``; "" if that is no length.
    """

    official_counts: Mapping[Split, int]
    num_classes: int
    class_names: Sequence[str] = ()
    official_size: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    signs: tuple[float, float, float] = (1.0, 1.0, 1.0)
    depth_unit: str = "m"


def describe(request: PrepareRequest, files: LabelledFiles, prepared: Prepared) -> list[str]:
    """Lines that say what was found, what is odd, and how to use the result."""
    layout = find_layout(request.layout)
    expected = Expected(
        official_counts={} if request.limit else layout.official_counts,
        official_size=layout.official_size,
        num_classes=files.num_classes,
        class_names=files.class_names,
        size=request.size,
        signs=request.options.signs,
        depth_unit=layout.depth_unit,
    )
    odd = [*files.notes, *describe_oddities(prepared.tallies, expected)]
    odd += [
        f"{one} and {other} are the same image; one must not be learnt from and scored: take one "
        "out of its list"
        for one, other in prepared.duplicates[:_LISTED]
    ]
    lines = describe_counts(prepared.tallies, depth_unit=layout.depth_unit)
    lines += ["", f"{len(odd)} remarks:" if odd else "nothing odd", *(f"- {text}" for text in odd)]
    if prepared.failures:
        lines += ["", f"failed samples ({len(prepared.failures)}, all in {MANIFEST_FILE}):"]
        lines += [f"- {key}: {detail}" for key, detail in prepared.failures[:_LISTED]]
    lines += ["", "to use it:", "source:", "  kind: shards", f"  root: {request.out}"]
    if files.num_classes:
        lines += ["method:", f"  num_classes: {files.num_classes}"]
    return lines


def describe_counts(tallies: Mapping[Split, SplitTally], *, depth_unit: str = "m") -> list[str]:
    """A line per split, then a line per task and split."""
    lines = [f"{'split':12}{'images':>8}{'failed':>8}{'captions':>10}  stored size"]
    for split, tally in tallies.items():
        sizes = ", ".join(f"{size} ({n})" for size, n in tally.sizes.most_common(3))
        more = f" and {len(tally.sizes) - 3} other sizes" if len(tally.sizes) > 3 else ""
        lines.append(
            f"{split:12}{tally.images:8}{tally.num_failed:8}{tally.captions:10}  {sizes}{more}"
        )
    lines += ["", f"{'task':12}{'split':12}{'images':>8}{'ignored':>9}  values"]
    for split, tally in tallies.items():
        for task in sorted(tally.tasks, key=TASKS.index):
            one = tally.tasks[task]
            share = one.ignored / max(one.pixels, 1)
            lines.append(
                f"{task:12}{split:12}{one.images:8}{share:9.1%}  " + _values(task, one, depth_unit)
            )
    return lines


def describe_oddities(tallies: Mapping[Split, SplitTally], expected: Expected) -> list[str]:
    """What is missing or odd, a text each."""
    found = [*_counts(tallies, expected), *_sizes(tallies, expected)]
    for split, tally in tallies.items():
        for task, one in tally.tasks.items():
            found += [f"{split}: {task}: {text}" for text in _of_task(task, one, tally, expected)]
    found += _unseen_classes(tallies, expected)
    return found


def _values(task: Task, tally: TaskTally, depth_unit: str) -> str:
    kind = TASK_KINDS[task]
    if kind == "direction":
        norm, z = tally.mean("norm"), tally.mean("z")
        stored = "" if norm is None else f"stored length {norm:.3f}, "
        return stored + ("no valid pixel" if z is None else f"mean z {z:+.2f}")
    if tally.least is None or tally.greatest is None:
        return "no valid pixel"
    if kind == "classes":
        return f"ids {tally.least:.0f} to {tally.greatest:.0f}, {len(tally.ids)} of them seen"
    text = f"{tally.least:.3f} to {tally.greatest:.3f}"
    return f"{text} {depth_unit}".rstrip() if kind == "distance" else text


def _counts(tallies: Mapping[Split, SplitTally], expected: Expected) -> Iterator[str]:
    for split, tally in tallies.items():
        wanted = expected.official_counts.get(split)
        found = tally.images + tally.num_failed
        if wanted is not None and found != wanted:
            yield (
                f"{split}: {found} images, but the published data set has {wanted}; scores do not "
                "compare with published ones until the copy is complete and unmixed"
            )
        for reason, count in tally.failed.most_common():
            yield (
                f"{split}: {count} samples could not be converted ({reason}); the rows with "
                "status = failed in manifest.parquet name the files: correct them and run again"
            )


def _sizes(tallies: Mapping[Split, SplitTally], expected: Expected) -> Iterator[str]:
    sizes = {size for tally in tallies.values() for size in tally.sizes}
    official = "" if expected.official_size is None else "{} x {}".format(*expected.official_size)
    if official and (odd := sorted(sizes - {official})):
        yield (
            f"images of {odd[0]} (height x width), but the published ones are {official}: this is "
            "a resized copy or another version; scores do not compare with published ones"
        )
    if len(sizes) > 1 and expected.size is None:
        yield (
            f"images have {len(sizes)} sizes, such as {', '.join(sorted(sizes)[:3])}; training "
            "needs one: convert again with --size HEIGHTxWIDTH (and --fit crop, stretch or pad)"
        )


def _of_task(task: Task, tally: TaskTally, split: SplitTally, expected: Expected) -> Iterator[str]:
    if tally.images < split.images:
        yield f"{split.images - tally.images} of {split.images} images have no such label"
    if tally.ignored > _MOSTLY * tally.pixels:
        yield (
            f"{tally.ignored / tally.pixels:.0%} of the pixels have no value; see whether this is "
            "the right folder, and the encoding in docs/datasets.md"
        )
    kind = TASK_KINDS[task]
    if kind == "distance" and expected.depth_unit == "m":
        yield from _depth(tally)
    if kind == "direction":
        yield from _normals(tally, expected.signs)
    if kind == "probability" and tally.least == tally.greatest and tally.least is not None:
        yield f"every pixel is {tally.least:g}; see whether the files are those of {task}"
    if task == "semseg" and len(tally.ids) < 2 <= expected.num_classes:
        yield "one class only; see whether the files hold class ids"


def _depth(tally: TaskTally) -> Iterator[str]:
    if tally.greatest is None:
        return
    if tally.greatest > MAX_DEPTH_M:
        yield (
            f"up to {tally.greatest:g} m; beyond {MAX_DEPTH_M} m it is stored as invalid: see "
            "whether the files are in metres"
        )
    if tally.greatest < _LEAST_DEPTH_M:
        yield (
            f"at most {tally.greatest:g} m: these look like normalised or inverse depths, not "
            "metres; RMSE in metres means nothing on them"
        )


def _normals(tally: TaskTally, given: tuple[float, float, float]) -> Iterator[str]:
    norm = tally.mean("norm")
    if norm is not None and abs(norm - 1) > _NORM_TOLERANCE:
        yield (
            f"stored vectors have mean length {norm:.3f} in place of 1; see whether the files hold "
            "n = 2 v / 255 - 1 with x in red, y in green, z in blue"
        )
    signs = suggested_signs(tally)
    if -1 in signs:
        axes = ", ".join(axis for axis, sign in zip("xyz", signs, strict=True) if sign < 0)
        better = ",".join(f"{sign * old:g}" for sign, old in zip(signs, given, strict=True))
        yield (
            f"axis {axes} seems to point the other way (wanted x right, y up, z toward the "
            "camera: seen surfaces face the camera, floors up, left walls right); view some, "
            f"and convert again with --normals-signs={better}"
        )


def suggested_signs(tally: TaskTally) -> tuple[int, int, int]:
    """Factors of x, y, z that pictures of rooms suggest; 1 where there is no sign.

    On ten or more photographs of NYUv2 the three differences are above 0.25.
    """
    if tally.images < _LEAST_IMAGES:
        return (1, 1, _sign(tally.mean("z") or 0.0))
    pairs = (("x_left", "x_right"), ("y_below", "y_above"))
    x, y = ((tally.mean(one) or 0.0) - (tally.mean(other) or 0.0) for one, other in pairs)
    return (_sign(x), _sign(y), _sign(tally.mean("z") or 0.0))


def _sign(evidence: float) -> int:
    return -1 if evidence < -0.1 else 1


def _unseen_classes(tallies: Mapping[Split, SplitTally], expected: Expected) -> Iterator[str]:
    train = tallies.get("train")
    if train is None or "semseg" not in train.tasks:
        return
    seen = {int(id_) for id_ in train.tasks["semseg"].ids}
    unseen = [id_ for id_ in range(expected.num_classes) if id_ not in seen]
    if unseen:
        names = [expected.class_names[i] if expected.class_names else str(i) for i in unseen]
        more = ", …" if len(names) > _LISTED else ""
        yield (
            f"train: {len(unseen)} of {expected.num_classes} classes are never seen: "
            f"{', '.join(names[:_LISTED])}{more}; a predictor cannot learn them"
        )
