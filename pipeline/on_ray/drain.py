"""Nodes that will go away, which Ray calls draining: the private calls for them are here."""

from __future__ import annotations

import logging
import math
import socket
import time
from typing import Any

import ray
from ray._private import services
from ray.core.generated import autoscaler_pb2, gcs_pb2

from schemas.errors import RunFailedError

logger = logging.getLogger(__name__)

_autoscaler: Any = autoscaler_pb2
_gcs: Any = gcs_pb2
_raylet: Any = ray._raylet

_ANSWER_WITHIN_S = 2.0


def draining_nodes() -> dict[str, float]:
    """Nodes of the connected cluster that are being drained.

    Returns:
        Node id to seconds that remain, at least 0; infinity where there is no deadline.
    """
    found: dict[str, int] = ray._private.state.state.get_draining_nodes()
    now_s = time.time()
    return {
        node: max(at_ms / 1000 - now_s, 0.0) if at_ms else math.inf for node, at_ms in found.items()
    }


def is_node_gone(node_id: str) -> bool:
    """Whether a node is lost; asks the node itself, for the cluster notices late.

    Args:
        node_id: The node; False is returned for one that the cluster has never known.
    """
    for node in ray.nodes():
        if node["NodeID"] == node_id:
            place = (node["NodeManagerAddress"], node["NodeManagerPort"])
            return not node["Alive"] or not _answers(place)
    return False


def drain_node(node_id: str, *, address: str, message: str, remaining_s: float) -> None:
    """Ask the cluster to give nothing more to a node, which will be gone after ``remaining_s``.

    Needs no connection to Ray, so that it works on a busy node; a token is taken from the
    environment or ``~/.ray/auth_token`` as everywhere in Ray.

    Args:
        remaining_s: Seconds until it is gone; infinity for no deadline.

    Raises:
        RunFailedError: If the cluster refuses.
    """
    reason = _autoscaler.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = 0 if math.isinf(remaining_s) else int((time.time() + remaining_s) * 1000)
    client = _raylet.GcsClient(address=address)
    is_accepted, refusal = client.drain_node(node_id, reason, message, deadline_ms)
    if not is_accepted:
        raise RunFailedError(f"node {node_id}: {address} does not drain it: {refusal}")
    logger.info("node_draining node=%s remaining_s=%g: %s", node_id, remaining_s, message)


def cluster_address(address: str | None = None) -> str:
    """Host and port of the cluster that this machine belongs to.

    Args:
        address: As given by the user; None for the one that ``ray start`` noted here.
    """
    return str(services.canonicalize_bootstrap_address_or_die(address or "auto"))


def node_id_of_this_machine(address: str) -> str:
    """Id of the living node with this machine's address.

    Raises:
        RunFailedError: If there is not exactly one.
    """
    own = ray.util.get_node_ip_address()
    alive = _gcs.GcsNodeInfo.GcsNodeState.ALIVE
    nodes = _raylet.GcsClient(address=address).get_all_node_info().values()
    found = [n.node_id for n in nodes if n.node_manager_address == own and n.state == alive]
    if len(found) != 1:
        raise RunFailedError(
            f"{address}: wanted one living node at {own}, found {len(found)}; "
            "name it with --node-id"
        )
    return str(found[0].hex())


def _answers(place: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(place, timeout=_ANSWER_WITHIN_S):
            return True
    except OSError:
        return False
