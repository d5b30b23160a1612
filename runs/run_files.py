"""What a run directory says about itself, and the errors of a directory that is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.config_file import apply_override, parse_config, parse_tree
from schemas.errors import ConfigError, SourceError
from schemas.run_layout import CONFIG_FILE
from sources.open import open_source
from storage.records.weights import list_versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.config import RunConfig
    from storage.files.stores import RunStore

FINAL = "final"


def expect_run(store: RunStore) -> None:
    """Check that a directory holds a run.

    Raises:
        ConfigError: If it does not.
    """
    if not store.exists(CONFIG_FILE):
        raise ConfigError(
            f"{store.url}: no run there: wanted a run directory, found no {CONFIG_FILE}; name the "
            "directory that run.url named, or one that jobs/export.py wrote"
        )


def read_config(store: RunStore, overrides: Sequence[str] = ()) -> RunConfig:
    """Read the configuration that a run was started with.

    Args:
        store: The run.
        overrides: ``section.field=value`` texts that change it.

    Raises:
        ConfigError: If there is no run, its configuration is of another version of the project, or
            an override is wrong.
    """
    expect_run(store)
    origin = store.uri(CONFIG_FILE)
    tree = parse_tree(store.read_bytes(CONFIG_FILE), origin=origin)
    for override in overrides:
        apply_override(tree, override)
    return parse_config(tree, origin=origin)


def find_version(store: RunStore, weights: str | int) -> int:
    """Version of the creation weights that a user names.

    Args:
        store: The run.
        weights: ``final``: the newest published version; or its number.

    Raises:
        ConfigError: If it is not published.
    """
    versions = list_versions(store)
    if not versions:
        raise ConfigError(
            f"--run {store.url}: no weights are published there yet; version 0 appears at the end "
            "of the stage warm_up (jobs/train.py --stage warm_up, or jobs/self_improve.py)"
        )
    name = str(weights)
    if name == FINAL:
        return versions[-1]
    if name.isdecimal() and int(name) in versions:
        return int(name)
    raise ConfigError(
        f"--weights {name}: wanted {FINAL} or one of the published versions of {store.url}, "
        f"{', '.join(map(str, versions))}"
    )


def describe_image_size(config: RunConfig) -> tuple[int, int]:
    """Height and width of the images of a run's source.

    Raises:
        SourceError: If the source cannot be opened.
    """
    try:
        return open_source(config.source, config.method.tasks).image_size
    except SourceError as error:
        raise SourceError(
            f"the size of the training images is asked of the run's source: {error}\n"
            "or give that size (image_size=(height, width), --image-size HEIGHTxWIDTH), or export "
            "the run where its source is"
        ) from error
