"""Wait for the cloud to take this machine back, then drain its Ray node in time.

    python jobs/watch_spot.py
    python jobs/watch_spot.py --leave-in-s 110      # drain now, whatever the cloud says

Started on every worker by ray_cluster.yaml. Ends at once on a machine that no cloud takes back.
"""

from __future__ import annotations

import argparse
import logging
import math
from typing import TYPE_CHECKING

from ops.spot_notice import AwsMetadata, GcpMetadata, Notice, find_metadata, wait_for_end
from runs.command_line import run_job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ops.spot_notice import Metadata

POLL_S = 5.0
RESERVE_S = 5.0
"""Kept from the deadline, for the cluster to learn of it."""


def main(arguments: Sequence[str]) -> None:
    """Watch this machine."""
    logging.getLogger().setLevel(logging.INFO)
    parsed = _parse(arguments)
    if parsed.leave_in_s is not None:
        asked = Notice(kind="ending", message="asked to leave", remaining_s=parsed.leave_in_s)
        drain(asked, parsed)
        return
    metadata = find_metadata(*_candidates(parsed))
    if metadata is None:
        print("no cloud takes this machine back: nothing to watch")
        return
    print(f"watching the {metadata.cloud} metadata every {parsed.poll_s:g} s", flush=True)

    def drain_at_risk(notice: Notice) -> None:
        print(f"{notice.message}: the machine may go away", flush=True)
        if parsed.drain_on_rebalance:
            drain(notice, parsed)

    notice = wait_for_end(metadata, poll_s=parsed.poll_s, on_risk=drain_at_risk)
    drain(notice, parsed)


def drain(notice: Notice, parsed: argparse.Namespace) -> None:
    """Drain this machine's Ray node."""
    from pipeline.on_ray.drain import cluster_address, drain_node, node_id_of_this_machine

    address = cluster_address(parsed.address)
    node_id = parsed.node_id or node_id_of_this_machine(address)
    remaining_s = max(notice.remaining_s - RESERVE_S, 0.0)
    drain_node(node_id, address=address, message=notice.message, remaining_s=remaining_s)
    left = "" if math.isinf(remaining_s) else f", {remaining_s:.0f} s left"
    print(f"{notice.message}: draining node {node_id}{left}", flush=True)


def _candidates(parsed: argparse.Namespace) -> tuple[Metadata, ...]:
    """Both clouds; one alone if its address is given."""
    if parsed.aws_url:
        return (AwsMetadata(parsed.aws_url),)
    return (GcpMetadata(parsed.gcp_url),) if parsed.gcp_url else ()


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Drain this Ray node before its cloud ends it.")
    parser.add_argument("--address", help="the cluster; absent: the one that was started here")
    parser.add_argument("--node-id", help="node to drain; absent: the one with this address")
    parser.add_argument(
        "--leave-in-s", type=float, metavar="SECONDS", help="drain now; it is gone in that time"
    )
    parser.add_argument("--poll-s", type=float, default=POLL_S, help="seconds between questions")
    parser.add_argument(
        "--drain-on-rebalance",
        action="store_true",
        help="drain already when AWS sees a raised risk, not only when it announces the end",
    )
    parser.add_argument("--aws-url", help="where AWS metadata are, for tests")
    parser.add_argument("--gcp-url", help="where GCP metadata are, for tests")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_job(main)
