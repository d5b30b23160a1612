"""What holds of every source of real samples, and of every layout that becomes one."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import get_args

import sources.layouts
from schemas.config import Source
from sources.layouts.protocol import Layout
from sources.layouts.registry import LAYOUTS
from sources.open import OPENERS

NO_LAYOUTS = {"__init__", "protocol", "registry", "classes"}


def test_every_kind_of_source_of_the_configuration_can_be_opened():
    union, *_ = get_args(Source)
    kinds = {section.model_fields["kind"].default for section in get_args(union)}
    assert set(OPENERS) == kinds


def test_every_layout_that_a_file_defines_is_in_the_table():
    for path in Path(sources.layouts.__path__[0]).glob("*.py"):
        module = importlib.import_module(f"sources.layouts.{path.stem}")
        defined = [value for value in vars(module).values() if isinstance(value, Layout)]
        assert all(LAYOUTS[layout.name] is layout for layout in defined), path
        assert defined or path.stem in NO_LAYOUTS, f"add LAYOUT to {path}"
