"""Show what has become of a run, from its storage: no cluster, no models.

python jobs/status.py RUN [--json]
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from rich.console import Console

from runs.command_line import run_job
from runs.status import read_status, show_status
from storage.files.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    """Print the status of a run."""
    parser = argparse.ArgumentParser(description="Show what has become of a run.")
    parser.add_argument("run", help="run directory, local or a URL")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parsed = parser.parse_args(arguments)
    status = read_status(open_store(parsed.run))
    if parsed.json:
        print(json.dumps(status, indent=1))
    else:
        show_status(status, Console())


if __name__ == "__main__":
    run_job(main)
