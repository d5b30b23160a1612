"""What all jobs share: --config, --set, --dry-run, and errors that end in an exit code.

Exit codes: 0 done, 1 the run failed, 2 the user has to change something, 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
from itertools import chain
from typing import TYPE_CHECKING

from schemas.config_file import load_config
from schemas.errors import (
    DamagedShardError,
    NotFiniteError,
    RunFailedError,
    UserError,
    WeightsMismatchError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rich.console import Console

    from schemas.config import RunConfig

FAILURES = (RunFailedError, DamagedShardError, WeightsMismatchError, NotFiniteError, OSError)
"""What ends a run and is no fault of this program: one line, no traceback."""

EXIT_FAILED = 1
EXIT_USER = 2
EXIT_INTERRUPTED = 130


def make_parser(description: str) -> argparse.ArgumentParser:
    """Parser with the three options that every job on a configuration takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", required=True, help="YAML of a complete run (see configs/)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="change one value of the configuration; may be repeated",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be done")
    return parser


def config_from(arguments: argparse.Namespace) -> RunConfig:
    """Configuration that the parsed ``--config`` and ``--set`` options describe.

    Raises:
        ConfigError: If the file or a value is wrong.
    """
    return load_config(arguments.config, tuple(arguments.set))


def print_anything() -> None:
    """Let this process print any text: what the terminal cannot show appears as its number."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show(console: Console, *texts: Iterable[str]) -> None:
    """Print lines as they are, at any length."""
    for line in chain.from_iterable(texts):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def run_job(main: Callable[[Sequence[str]], None]) -> None:
    """Run a job's main function and leave the process with the right exit code.

    Args:
        main: Takes the command-line arguments without the program's name.
    """
    print_anything()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER)
    except FAILURES as error:
        print(f"failed: {str(error) or type(error).__name__}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command resumes", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
