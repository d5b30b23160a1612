"""Generate alone: make the units of a run from the creation weights it has.

    python jobs/generate.py --config configs/rooms_demo.yaml

The same command resumes; what is committed is not made again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from runs.checks.start import expect_startable
from runs.command_line import config_from, make_parser, run_job, show
from runs.data_report import keep_data_report
from runs.directory import claim_run_directory, describe_replacement, resumed_config
from runs.driving import driving
from runs.generation import (
    check_weights,
    describe_plan,
    generate_here,
    generate_on_ray,
    plan_of,
)
from sources.open import open_run_source
from storage.files.stores import open_store

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from storage.records.run_lock import Role

ROLES: tuple[Role, ...] = ("generate",)


def main(arguments: Sequence[str]) -> None:
    """Generate what the command line describes."""
    parsed, console = _parse(arguments), Console()
    config = config_from(parsed)
    store = open_store(config.run.url)
    config = resumed_config(store, config)
    source = open_run_source(config)
    plan = plan_of(config, source, rounds=parsed.rounds)
    found = expect_startable(
        config,
        store,
        source,
        roles=ROLES,
        plan=plan,
        on_ray=not parsed.local,
        is_dry=parsed.dry_run,
    )
    show(console, describe_replacement(store, config), found.lines())
    if parsed.dry_run:
        show(console, describe_plan(config, plan, store, image_size=source.image_size))
        return
    check_weights(config, store, parsed.weights)
    claim_run_directory(store, config)
    keep_data_report(store, found.report)
    generate = generate_here if parsed.local else generate_on_ray
    with driving(store, job="generate", roles=ROLES) as lock:
        figures = generate(config, lock, plan, version=parsed.weights, console=console)
    for name in ("units", "samples_ok", "samples_filtered", "samples_failed", "reasons"):
        console.print(f"{name}: {figures[name]}", soft_wrap=True, markup=False)
    console.print(f"ended: {figures['reason']}", soft_wrap=True, markup=False)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("Generate synthetic samples with a run's creation weights.")
    parser.add_argument("--weights", type=int, metavar="VERSION", help="label with this version")
    parser.add_argument("--rounds", type=int, help="only the first rounds of the plan")
    parser.add_argument("--local", action="store_true", help="generate in this process, no Ray")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_job(main)
