"""All layouts by name, and which one a folder looks like."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING

import sources.layouts
from schemas.errors import SourceError
from sources.layouts.protocol import Layout

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@cache
def all_layouts() -> Mapping[str, Layout]:
    """Layouts by name, sorted: the ``LAYOUT`` of each module of this package that has one."""
    modules = [
        importlib.import_module(f"{sources.layouts.__name__}.{info.name}")
        for info in pkgutil.iter_modules(sources.layouts.__path__)
    ]
    found = [getattr(module, "LAYOUT", None) for module in modules]
    layouts = [layout for layout in found if isinstance(layout, Layout)]
    return {layout.name: layout for layout in sorted(layouts, key=lambda one: one.name)}


def find_layout(name: str) -> Layout:
    """The layout of a name.

    Raises:
        SourceError: If there is none; the message lists those there are.
    """
    layouts = all_layouts()
    if name not in layouts:
        raise SourceError(f"layout {name!r}: unknown; wanted one of {', '.join(layouts)}")
    return layouts[name]


def recognise(root: Path) -> tuple[str, ...]:
    """Names of the layouts that a folder looks like; usually one or none."""
    return tuple(name for name, layout in all_layouts().items() if layout.detect(root))
