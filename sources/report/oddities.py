"""What is odd about what was counted of a data set, in words that say what to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from schemas.sample import TASK_KINDS, TASKS, Task
from sources.folder_description import METRES_PER_STEP, USUAL_DEPTH_M, ClassFiles
from sources.report.tally import TaskTally
from storage.samples.codecs import MAX_DEPTH_M

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sources.folder_description import LabelFiles
    from sources.protocol import Split
    from sources.report.tally import SplitTally

_LEAST_DEPTH_M = 0.5
_MEDIAN_DEPTH_M = (0.05, 200.0)
_MOSTLY = 0.9
_NORM_TOLERANCE = 0.05
_NEARLY_ALL = 0.99
_CLEARLY = 0.2
_LISTED = 10
_LEAST_IMAGES = 10
_FEW_IMAGES = 4
_RARE = 0.05
_MUCH_IGNORED = 0.2


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
        folder: What the description of a folder of files says of its labels; None: of shards.
        void_ids: Classes that are counted but have no pixels by design.
        is_sampled: Whether only some of the images were counted.
        partly: Labels by task of the splits whose images lack some by design.
    """

    official_counts: Mapping[Split, int]
    num_classes: int
    class_names: Sequence[str] = ()
    official_size: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    signs: tuple[float, float, float] = (1.0, 1.0, 1.0)
    depth_unit: str = "m"
    folder: LabelFiles | None = None
    void_ids: Sequence[int] = ()
    is_sampled: bool = False
    partly: Mapping[Split, Mapping[Task, int]] = field(default_factory=dict)


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
            if one.images < tally.images and split not in expected.partly:
                missing = tally.images - one.images
                found.append(
                    f"{split}: {task}: {missing} of {tally.images} images have no such label"
                )
            found += [f"{split}: {task}: {text}" for text in _of_task(task, one, expected)]
    found += _unseen_classes(tallies, expected)
    return found


def find_errors(
    tallies: Mapping[Split, SplitTally], tasks: Sequence[Task], expected: Expected
) -> list[str]:
    """Why training or scoring cannot work, a text each.

    Args:
        tallies: Of samples enough to tell: all, or many.
        tasks: What is to be learnt.
    """
    found: list[str] = []
    for split in ("train", "test"):
        tally = tallies.get(split)
        if tally is None or not tally.images:
            continue
        for task in tasks:
            text = _why_useless(task, tally.tasks.get(task, TaskTally()), split, expected)
            found += [f"{split}: {task}: {text}"] if text else []
    return found


def _why_useless(task: Task, tally: TaskTally, split: Split, expected: Expected) -> str:
    if not tally.images and expected.partly.get(split, {}).get(task):
        return ""
    if tally.ignored == tally.pixels:
        what = "has such a label" if not tally.images else "has a pixel with a value"
        sign = " above 0" if TASK_KINDS[task] == "distance" and tally.images else ""
        wanted = "learn from" if split == "train" else "score"
        return (
            f"no image {what}{sign}, so there is nothing to {wanted}; see whether this is the "
            f"right folder, and {_encoding(task, expected)}, or take {task} out of method.tasks"
        )
    is_alone = TASK_KINDS[task] == "classes" and len(tally.ids) == 1
    if split == "train" and is_alone and tally.ignored:
        seen = next(iter(tally.ids))
        return (
            f"only class {seen} occurs, everything else is ignored, so nothing can be learnt; "
            + _class_remedy(task, tally, expected)
        )
    return ""


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
    if kind != "distance" or not depth_unit:
        return text
    middle = "" if tally.median is None else f", median {tally.median:.2g}"
    return f"{text} {depth_unit}{middle}"


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


def _of_task(task: Task, tally: TaskTally, expected: Expected) -> Iterator[str]:
    if tally.ignored > _MOSTLY * tally.pixels:
        yield (
            f"{tally.ignored / tally.pixels:.0%} of the pixels have no value; see whether this is "
            f"the right folder, and {_encoding(task, expected)}"
        )
    kind = TASK_KINDS[task]
    if kind == "distance" and expected.depth_unit == "m":
        yield from _depth(tally, expected.folder)
    if kind == "direction":
        yield from _normals(tally, expected)
    if kind == "probability" and tally.least == tally.greatest and tally.least is not None:
        yield f"every pixel is {tally.least:g}; see whether the files are those of {task}"
    if task == "semseg":
        yield from _classes(tally, expected)
        yield from _rare_beside_ignored(tally, expected)


def _encoding(task: Task, expected: Expected) -> str:
    if expected.folder is None:
        return "the encoding in docs/datasets.md"
    return f"labels.{task} of the description (docs/howto-your-own-folder.md)"


def _classes(tally: TaskTally, expected: Expected) -> Iterator[str]:
    if len(tally.ids) == 1 < expected.num_classes:
        yield f"one class only; {_class_remedy('semseg', tally, expected)}"
    elif tally.ids:
        id_, pixels = tally.ids.most_common(1)[0]
        share = pixels / sum(tally.ids.values())
        if share > _NEARLY_ALL:
            yield (
                f"{share:.1%} of the labelled pixels are of class {id_}: a predictor that says it "
                "everywhere is hardly ever wrong; look at mIoU, not at accuracy"
            )


def _rare_beside_ignored(tally: TaskTally, expected: Expected) -> Iterator[str]:
    """Where few images show a class and much is ignored, the others may hold it as that id."""
    if len(tally.ids) < 2 or tally.ignored <= _MUCH_IGNORED * tally.pixels:
        return
    rare = {id_: n for id_, n in tally.showing.items() if n < _RARE * tally.images}
    if rare:
        id_ = min(rare, key=lambda each: rare[each])
        yield (
            f"class {id_} occurs in {rare[id_]} of {tally.images} images, and "
            f"{tally.ignored / tally.pixels:.0%} of all pixels are ignored: do the other images "
            f"hold it as an id that is ignored? If so, see {_encoding('semseg', expected)} "
            "(id_map, ignore)"
        )


def _class_remedy(task: Task, tally: TaskTally, expected: Expected) -> str:
    """What to do where one class is seen; ids that are ignored may be the other ones."""
    files = expected.folder.of(task) if expected.folder else None
    if not isinstance(files, ClassFiles):
        return "see whether the files hold class ids"
    if not (files.ignore and tally.ignored):
        return f"see whether the files hold class ids from 0 to {files.num_classes - 1}"
    ignored = ", ".join(map(str, files.ignore))
    share = tally.ignored / tally.pixels
    known = files.id_map or {int(id_) - files.id_offset: int(id_) for id_ in tally.ids}
    others = [id_ for id_ in range(files.num_classes) if id_ not in known.values()]
    better = dict(sorted({**known, **dict(zip(files.ignore, others, strict=False))}.items()))
    return (
        f"{share:.0%} of the pixels are ignored (stored id {ignored}): if that is a class too, say "
        f"labels.{task}: {{id_map: {better}, ignore: []}}"
    )


def _depth(tally: TaskTally, folder: LabelFiles | None) -> Iterator[str]:
    if tally.greatest is None or tally.median is None:
        return
    least, most = _MEDIAN_DEPTH_M
    if not least <= tally.median <= most:
        yield (
            f"median {tally.median:.3g} m, up to {tally.greatest:g} m, which no camera sees: "
            + _unit_remedy(tally.median, folder)
        )
    elif tally.greatest > MAX_DEPTH_M and folder is None:
        yield (
            f"up to {tally.greatest:g} m; beyond {MAX_DEPTH_M} m it is stored as invalid: see "
            "whether the files are in metres"
        )
    elif tally.greatest < _LEAST_DEPTH_M:
        yield (
            f"at most {tally.greatest:g} m: these look like normalised or inverse depths, not "
            "metres; RMSE in metres means nothing on them"
        )
    elif tally.least == tally.greatest and tally.images >= _FEW_IMAGES:
        yield f"every pixel is {tally.least:g} m; see whether the files are those of depth"


def _unit_remedy(median_m: float, folder: LabelFiles | None) -> str:
    files = folder.depth if folder else None
    if files is None:
        return "see whether the files are in metres"
    near, far = USUAL_DEPTH_M
    steps = median_m / files.metres_per_step
    fitting = [unit for unit, metres in METRES_PER_STEP.items() if near <= steps * metres <= far]
    now = files.unit if isinstance(files.unit, str) else f"{files.unit:g}"
    if not fitting:
        return f"labels.depth.unit is {now}; say the metres of one stored step there"
    return f"is the unit {fitting[0]}? labels.depth.unit is {now}; say unit: {fitting[0]}"


def _normals(tally: TaskTally, expected: Expected) -> Iterator[str]:
    norm = tally.mean("norm")
    if norm is not None and abs(norm - 1) > _NORM_TOLERANCE:
        yield (
            f"stored vectors have mean length {norm:.3f} in place of 1; see whether the files hold "
            "n = 2 v / 255 - 1 with x in red, y in green, z in blue"
        )
    means = {axis: tally.mean(axis) or 0.0 for axis in "xyz"}
    axis = max("xy", key=lambda one: abs(means[one]))
    if abs(means[axis]) > abs(means["z"]) + _CLEARLY:
        yield (
            f"mean x {means['x']:+.2f}, y {means['y']:+.2f}, z {means['z']:+.2f}, but what a "
            "camera sees faces it, so z should be the greatest; the channels seem to be swapped "
            f"({axis} with z): write x in red, y in green, z in blue, in the camera's frame"
        )
        return
    signs = suggested_signs(tally)
    if -1 in signs:
        axes = ", ".join(axis for axis, sign in zip("xyz", signs, strict=True) if sign < 0)
        yield (
            f"axis {axes} seems to point the other way (wanted x right, y up, z toward the "
            "camera: seen surfaces face the camera, floors up, left walls right); view some, "
            f"and {_signs_remedy(signs, expected)}"
        )


def _signs_remedy(signs: tuple[int, int, int], expected: Expected) -> str:
    if expected.folder is None or expected.folder.normals is None:
        better = ",".join(f"{n * old:g}" for n, old in zip(signs, expected.signs, strict=True))
        return f"convert again with --normals-signs={better}"
    names = {"x": ("right", "left"), "y": ("up", "down"), "z": ("toward", "away")}
    now = expected.folder.normals.signs
    words = (
        f"{axis}: {names[axis][int(sign * old < 0)]}"
        for axis, sign, old in zip("xyz", signs, now, strict=True)
        if sign < 0
    )
    return f"say labels.normals: {{{', '.join(words)}}}"


def suggested_signs(tally: TaskTally) -> tuple[int, int, int]:
    """Factors of x, y, z that pictures of rooms suggest; 1 where there is no sign.

    On ten or more photographs of NYUv2 the three differences are above 0.25. Fewer pictures tell
    nothing of x, and four or more only of a y that is clearly turned.
    """
    z = _sign(tally.mean("z") or 0.0)
    below, above = tally.mean("y_below") or 0.0, tally.mean("y_above") or 0.0
    if tally.images < _LEAST_IMAGES:
        is_turned = below < -_CLEARLY and below - above < -2 * _CLEARLY
        return (1, -1 if is_turned and tally.images >= _FEW_IMAGES else 1, z)
    left, right = tally.mean("x_left") or 0.0, tally.mean("x_right") or 0.0
    return (_sign(left - right), _sign(below - above), z)


def _sign(evidence: float) -> int:
    return -1 if evidence < -0.1 else 1


def unseen_classes(tally: SplitTally, expected: Expected) -> list[int]:
    """Ids of ``semseg`` that a split has no pixel of."""
    seen = {int(id_) for id_ in tally.tasks["semseg"].ids} | set(expected.void_ids)
    return [id_ for id_ in range(expected.num_classes) if id_ not in seen]


def _unseen_classes(tallies: Mapping[Split, SplitTally], expected: Expected) -> Iterator[str]:
    train = tallies.get("train")
    if train is None or "semseg" not in train.tasks:
        return
    if unseen := unseen_classes(train, expected):
        names = [expected.class_names[i] if expected.class_names else str(i) for i in unseen]
        more = ", …" if len(names) > _LISTED else ""
        where = f" in the {train.images} images looked at" if expected.is_sampled else ""
        yield (
            f"train: {len(unseen)} of {expected.num_classes} classes are never seen{where}: "
            f"{', '.join(names[:_LISTED])}{more}; "
            + (
                "see whether others show them"
                if expected.is_sampled
                else "a predictor cannot learn them"
            )
        )
