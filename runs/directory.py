"""The configuration of a run directory, and the errors of a directory that is none.

Once something is made, a run has one set of *science* for ever; its *operations* are those of the
newest command (:mod:`schemas.config_base`). What a version of the project did not know yet has its
default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runs.begun import has_begun
from runs.splits import expect_same_splits, keep_splits
from schemas.config_base import values_of
from schemas.config_file import apply_override, dump_config, parse_config, parse_tree
from schemas.digest import digest_of
from schemas.errors import AlreadyCommittedError, ConfigError, SourceError
from schemas.events import Event
from schemas.run_layout import CONFIG_FILE
from sources.open import open_source
from storage.records.events import EventWriter
from storage.records.weights import list_versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.config import RunConfig
    from schemas.config_base import Kind
    from storage.files.stores import RunStore

FINAL = "final"


_DAMAGED = (
    "this file, which the run itself wrote, is damaged: put a copy of it back, or remove it and "
    "start with exactly the configuration that the run began with, which writes it again"
)


def expect_run(store: RunStore) -> None:
    """Check that a directory holds a run.

    Raises:
        ConfigError: If it does not.
    """
    if not store.exists(CONFIG_FILE):
        below = f"run/{CONFIG_FILE}"
        meant = f"did you mean {store.url}/run? Else " if store.exists(below) else ""
        raise ConfigError(
            f"{store.url}: no run there: wanted a run directory, found no {CONFIG_FILE}; {meant}"
            "name the directory that run.url named, or one that jobs/export.py wrote"
        )


def read_config(store: RunStore, overrides: Sequence[str] = ()) -> RunConfig:
    """Read the configuration of a run; ``run.url`` is where the run is now.

    Args:
        overrides: ``section.field=value`` texts that change it.

    Raises:
        ConfigError: If there is no run, its configuration is of another version of the project, or
            an override is wrong.
    """
    expect_run(store)
    origin = store.uri(CONFIG_FILE)
    tree = parse_tree(store.read_bytes(CONFIG_FILE), origin=origin, remedy=_DAMAGED)
    if isinstance(tree.get("run"), dict):
        tree["run"] = {"recipe": _earlier_recipe(tree), **tree["run"], "url": store.url}
    for override in overrides:
        apply_override(tree, override)
    return parse_config(tree, origin=origin)


def resumed_config(store: RunStore, config: RunConfig) -> RunConfig:
    """The configuration with which the run in a directory begins or goes on; nothing is written.

    A directory for which nothing was made yet takes any configuration.

    Raises:
        ConfigError: If a value that decides the run's results is another than the run has; the
            message names each.
        SourceError: If the samples of the source are others than the run began with.
    """
    resumed = _merged(store, config)
    expect_same_splits(store, resumed)
    return resumed


def _merged(store: RunStore, config: RunConfig) -> RunConfig:
    """The configuration, with the recipe of the run that is there if it is one of equal science.

    Raises:
        ConfigError: As :func:`resumed_config`.
    """
    if not store.exists(CONFIG_FILE):
        return config.noting_recipe()
    try:
        begun = read_config(store)
    except ConfigError as error:
        if has_begun(store):
            if _DAMAGED in str(error):
                raise
            raise ConfigError(_refusal(config, str(error))) from error
        return config.noting_recipe()
    resumed = config.noting_recipe(begun.run.recipe)
    differences = _differences(begun, resumed, "science")
    if not differences:
        return resumed
    if has_begun(store):
        lines = [f"  {field}: there {old}, now {new}" for field, old, new in differences]
        raise ConfigError(_refusal(config, "\n".join(lines)))
    return config.noting_recipe()


def describe_replacement(store: RunStore, config: RunConfig) -> list[str]:
    """Say what replaces the configuration of a directory for which nothing was made yet.

    Args:
        config: As :func:`resumed_config` gives it.

    Returns:
        No line if no value that decides results is replaced.
    """
    changes = [] if has_begun(store) else _changes(store, config, "science")
    if not changes:
        return []
    return [
        f"{store.url}: nothing was made there yet; a start replaces its configuration:",
        *(f"  {field}: there {old}, now {new}" for field, old, new in changes),
    ]


def claim_run_directory(store: RunStore, config: RunConfig) -> RunConfig:
    """Begin a run in an empty directory, or go on with the one that is there.

    Values that changed replace those in the directory, each with an event ``config_changed``:
    operations, and all of them where nothing was made yet.

    Returns:
        The configuration to work with.

    Raises:
        ConfigError: As :func:`resumed_config`.
        SourceError: As :func:`resumed_config`.
    """
    begins = config.noting_recipe()
    try:
        store.put_if_absent(CONFIG_FILE, dump_config(begins).encode())
    except AlreadyCommittedError:
        config = _merged(store, config)
    else:
        keep_splits(store, begins)
        return begins
    keep_splits(store, config)
    changes = _changes(store, config, "science") + _changes(store, config, "operations")
    if changes:
        store.write_bytes(CONFIG_FILE, dump_config(config).encode())
        events = EventWriter(store, "config")
        for field, old, new in changes:
            events.emit(Event.CONFIG_CHANGED, field=field, old=old, new=new)
        events.flush()
    return config


def find_version(store: RunStore, weights: str | int) -> int:
    """Version of the creation weights that a user names.

    Args:
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


def _earlier_recipe(tree: dict[str, Any]) -> str:
    """Recipe of a run whose version of the project noted none: it counted all of both sections."""
    return digest_of({name: tree.get(name) for name in ("model", "creator")})


def _differences(old: RunConfig, new: RunConfig, kind: Kind) -> list[tuple[str, Any, Any]]:
    """Fields of a kind that differ, with both values; "absent" where a kind of source has none."""
    before = {path: value for path, each, value in values_of(old) if each == kind}
    after = {path: value for path, each, value in values_of(new) if each == kind}
    return [
        (path, before.get(path, "absent"), after.get(path, "absent"))
        for path in {**before, **after}
        if before.get(path, "absent") != after.get(path, "absent")
    ]


def _changes(store: RunStore, config: RunConfig, kind: Kind) -> list[tuple[str, Any, Any]]:
    """Fields of a kind that differ from those in a directory."""
    if not store.exists(CONFIG_FILE):
        return []
    try:
        return _differences(read_config(store), config, kind)
    except ConfigError:
        return [("all fields", "what this version cannot read", "replaced")]


def _refusal(config: RunConfig, why: str) -> str:
    return (
        f"run.url = {config.run.url!r}: holds a run of another configuration\n{why}\n"
        "these decide what a run makes: choose another run.url, or go on with the values that it "
        "was started with"
    )
