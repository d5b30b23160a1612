"""The page on configuration is what the code says."""

from __future__ import annotations

from pathlib import Path

from jobs.describe_config import describe


def test_the_page_on_configuration_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert page.read_text() == describe()
