"""Convert a published data set once to shards with a manifest, and say what was found in it.

python jobs/prepare.py nyud_mt_atrc --root /data/NYUDv2 --out /data/nyud-shards
python jobs/prepare.py auto --root /data/NYUDv2 --out s3://bucket/nyud --size 448x576 --fit pad

The same command resumes. docs/datasets.md shows the files of each layout.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args

from runs.command_line import run_job
from runs.counting import counted
from schemas.errors import UserError
from schemas.sample import TASKS
from sources.layouts.protocol import LayoutOptions
from sources.layouts.registry import LAYOUTS
from sources.prepare.prepare import (
    AUTO,
    PrepareRequest,
    open_files,
    plan_request,
    prepare,
    resolve_layout,
)
from sources.prepare.report import as_json, describe
from sources.protocol import Split
from sources.resize import Fit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sources.readers.files import Signs

T = TypeVar("T", bound=str)


def main(argv: Sequence[str]) -> None:
    """Convert, then report."""
    options = parse_options(argv)
    request = read_request(options)
    files = open_files(request)
    # With --json the standard output holds nothing else.
    told = sys.stderr if options.json else sys.stdout

    def tell(line: str) -> None:
        print(line, file=told, flush=True)

    tell(f"{request.layout} at {request.root}: {', '.join(files.tasks)}")
    if options.dry_run:
        for plan in plan_request(request, files):
            tell(f"{plan.name}.tar: {len(plan.keys)} samples")
        return
    with counted("samples") as on_done:
        prepared = prepare(request, files, progress=tell, on_done=on_done)
    if options.json:
        print(json.dumps(as_json(request, files, prepared), indent=1))
    else:
        print("\n" + "\n".join(describe(request, files, prepared)))


def read_request(options: argparse.Namespace) -> PrepareRequest:
    """What the options of the command line ask for.

    Raises:
        UserError: If an option is wrong or the folder is not what it is said to be.
    """
    if min(options.workers, options.per_shard, options.limit or 1) < 1:
        raise UserError(
            f"wanted --workers, --per-shard and --limit of at least 1; found {options.workers}, "
            f"{options.per_shard}, {options.limit}"
        )
    tasks = _names(options.tasks, TASKS, "--tasks")
    splits = _names(options.splits, get_args(Split), "--splits")
    return PrepareRequest(
        layout=resolve_layout(options.layout, options.root),
        root=options.root,
        out=options.out,
        options=LayoutOptions(
            tasks=tasks,
            normals_dir=options.normals,
            normals_signs=_signs(options.normals_signs),
            class_map=options.class_map,
            num_classes=options.classes,
        ),
        size=_size(options.size),
        fit=options.fit,
        splits=splits,
        limit=options.limit,
        per_shard=options.per_shard,
        workers=options.workers,
    )


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    layouts = "\n".join(f"  {one.name:22}{one.title}" for one in LAYOUTS.values())
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog=f"layouts:\n{layouts}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "layout", help=f"name of a layout below, or {AUTO}: the one whose files lie in --root"
    )
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--out", required=True, help="folder or URL for the shards")
    parser.add_argument("--size", default="native", help="HEIGHTxWIDTH, or native (default)")
    parser.add_argument(
        "--fit",
        choices=get_args(Fit),
        default="crop",
        help="crop: cut the middle to the aspect of --size and resize; stretch: resize; pad: add "
        "unlabelled pixels on all sides",
    )
    parser.add_argument("--tasks", help="comma-separated; all that are there if absent")
    parser.add_argument("--splits", help="comma-separated; all that are there if absent")
    parser.add_argument("--limit", type=int, help="only the first so many samples of each split")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--per-shard", type=int, default=64, help="samples in a shard")
    parser.add_argument("--normals", type=Path, help="folder of normals for nyu_depth_v2")
    parser.add_argument(
        "--normals-signs",
        help="factors of x, y, z that bring stored normals into the frame x right, y up, z toward "
        "the camera, such as --normals-signs=-1,1,-1",
    )
    parser.add_argument("--class-map", type=Path, help="table of classes for nyu_depth_v2")
    parser.add_argument("--classes", type=int, help="7 (default) or 19 for cityscapes_mtpsl")
    parser.add_argument("--dry-run", action="store_true", help="print the shards to be made")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser.parse_args(argv)


def _names(text: str | None, known: Sequence[T], option: str) -> tuple[T, ...] | None:
    if text is None:
        return None
    wanted = [part.strip() for part in text.split(",")]
    found = tuple(name for name in known if name in wanted)
    unknown = [name for name in wanted if name not in known]
    if unknown or not found:
        raise UserError(f"{option} {text}: wanted some of {', '.join(known)}, comma-separated")
    return found


def _size(text: str) -> tuple[int, int] | None:
    if text == "native":
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise UserError(f"--size {text}: wanted HEIGHTxWIDTH such as 480x640, or native")
    return int(match[1]), int(match[2])


def _signs(text: str | None) -> Signs | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or any(part not in ("1", "+1", "-1") for part in parts):
        raise UserError(
            f"--normals-signs {text}: wanted three of 1 and -1, such as --normals-signs=-1,1,-1"
        )
    x, y, z = (float(part) for part in parts)
    return (x, y, z)


if __name__ == "__main__":
    run_job(main)
