"""Read a run configuration: YAML, then ``--set`` overrides, then checks that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from schemas.config import RunConfig
from schemas.errors import ConfigError
from schemas.plain_files import read_plain, why_not
from schemas.problems import describe_problems
from schemas.yaml_text import parse_yaml

_MOST_SHOWN = 200


def load_config(path: str | Path, overrides: tuple[str, ...] = ()) -> RunConfig:
    """Read and check a configuration.

    Args:
        path: A YAML file that holds a complete run.
        overrides: ``section.field=value`` texts; the value is read as YAML.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: If the file cannot be read or a field is unknown or out of range; the
            message has a line for each problem, with field, value and remedy.
    """
    file = Path(path)
    try:
        data = read_plain(file)
    except (OSError, ValueError) as error:
        why = why_not(error)
        raise ConfigError(f"--config {path}: {why}; the shipped ones are in configs/") from error
    tree = parse_tree(data, origin=str(path))
    for override in overrides:
        apply_override(tree, override)
    return parse_config(tree, origin=str(path))


def parse_tree(
    data: bytes, *, origin: str, remedy: str = "mend it, or copy one of configs/"
) -> dict[str, Any]:
    """Read the text of a configuration as nested dictionaries, unchecked.

    Raises:
        ConfigError: If it is not YAML or holds no sections; ``origin`` names where it came from.
    """
    try:
        tree = parse_yaml(data)
    except ValueError as error:
        raise ConfigError(f"{origin}: {error}; {remedy}") from error
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{origin}: wanted sections such as run: and training:, found {_shown(tree)}; {remedy}"
        )
    return tree


def parse_config(tree: dict[str, Any], *, origin: str) -> RunConfig:
    """Check a configuration given as nested dictionaries.

    Raises:
        ConfigError: As :func:`load_config`; ``origin`` names where the values came from.
    """
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        text = describe_problems(origin, error, RunConfig, page="docs/configuration.md")
        raise ConfigError(text) from error


def dump_config(config: RunConfig) -> str:
    """Every field, defaults included, as YAML that :func:`load_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Change one value of a configuration given as nested dictionaries.

    Args:
        tree: The configuration; changed in place.
        override: A ``section.field=value`` text; the value is read as YAML.

    Raises:
        ConfigError: If the text or its path does not fit.
    """
    name, separator, text = override.partition("=")
    if not separator or not name.strip():
        raise ConfigError(f"--set {override[:_MOST_SHOWN]}: wanted section.field=value")
    *parents, leaf = name.strip().split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override[:_MOST_SHOWN]}: {parent} is a value, not a section")
        node = child
    try:
        node[leaf] = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"--set {name}: {error}; quote the value") from error


def _shown(value: object) -> str:
    return f"{value!r:.{_MOST_SHOWN}}"
