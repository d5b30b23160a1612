"""Pause a running generation, let it go on, or change the number of its generators.

    python jobs/steer.py RUN --pause | --resume | --generators N

A running driver follows within seconds, a later one at its start.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from runs.command_line import run_job
from runs.directory import expect_run
from schemas.errors import ConfigError
from storage.files.stores import open_store
from storage.records.steering import MOST_GENERATORS, Steering, read_steering, write_steering

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    """Write what the command line asks for.

    Raises:
        ConfigError: If there is no such run, or the number is not positive.
    """
    parser = argparse.ArgumentParser(description="Steer a running generation.")
    parser.add_argument("run", help="run directory, local or a URL")
    wishes = parser.add_mutually_exclusive_group(required=True)
    wishes.add_argument("--pause", action="store_true", help="begin no further unit")
    wishes.add_argument("--resume", action="store_true", help="go on")
    wishes.add_argument("--generators", type=int, metavar="N", help="how many from now on")
    parsed = parser.parse_args(arguments)
    store = open_store(parsed.run)
    expect_run(store)
    steering = changed(read_steering(store), parsed)
    write_steering(store, steering)
    number = steering.num_generators
    print(f"generators: {'as configured' if number is None else number}")
    print("paused: units in the making are finished" if steering.is_paused else "not paused")


def changed(steering: Steering, parsed: argparse.Namespace) -> Steering:
    """The wishes after a command.

    Raises:
        ConfigError: If the number is not positive, or too large.
    """
    if parsed.generators is None:
        return replace(steering, is_paused=parsed.pause)
    if not 1 <= parsed.generators <= MOST_GENERATORS:
        raise ConfigError(
            f"--generators {parsed.generators}: wanted 1 to {MOST_GENERATORS}; --pause begins no "
            "unit"
        )
    return replace(steering, num_generators=parsed.generators)


if __name__ == "__main__":
    run_job(main)
