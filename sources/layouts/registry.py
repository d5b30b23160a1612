"""All layouts by name, and which one a folder looks like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.errors import SourceError
from sources.layouts import (
    ade20k,
    cityscapes,
    cityscapes_mtpsl,
    nyu_bae,
    nyu_bts,
    nyu_depth_v2,
    nyu_mt,
    nyu_mtpsl,
    pascal_context,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sources.layouts.protocol import Layout

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        ade20k.LAYOUT,
        cityscapes.LAYOUT,
        cityscapes_mtpsl.LAYOUT,
        nyu_bae.LAYOUT,
        nyu_bts.LAYOUT,
        nyu_depth_v2.LAYOUT,
        nyu_mtpsl.LAYOUT,
        nyu_mt.ATRC,
        nyu_mt.TGZ,
        pascal_context.LAYOUT,
    )
}


def find_layout(name: str) -> Layout:
    """The layout of a name.

    Raises:
        SourceError: If there is none; the message lists those there are.
    """
    if name not in LAYOUTS:
        raise SourceError(f"layout {name!r}: unknown; wanted one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def recognise(root: Path) -> tuple[str, ...]:
    """Names of the layouts that a folder looks like; usually one or none."""
    return tuple(name for name, layout in LAYOUTS.items() if layout.detect(root))
