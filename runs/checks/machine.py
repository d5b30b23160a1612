"""Whether this machine, or the cluster, offers what the run asks for; asked before Ray is."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from schemas.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection

    from schemas.config import RunConfig
    from storage.records.run_lock import Role

ANSWER_WITHIN_S = 5.0
_SOCKET_BYTES = 107
"""Longest path of a Unix socket."""

_SOCKET = "ray/session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"
_MOST_PID_DIGITS = 7
_WITHOUT_HOST = frozenset({"auto", "local"})
_RAY_HERE = "use a Ray on this machine with --set ray.address=local"
_TOKEN_SETTINGS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def cluster_address(config: RunConfig) -> str | None:
    """The cluster to join: of the configuration, else of the environment; None: a Ray of its own.

    ``ray job submit`` puts the cluster that runs the job into the environment.
    """
    address = config.ray.address or os.environ.get("RAY_ADDRESS") or None
    return None if address == "local" else address


def expect_device(config: RunConfig) -> None:
    """Check that the frozen models can run where the run says.

    Raises:
        ConfigError: If there is no such device here.
    """
    from perception.build import device_of

    device_of(config)


def expect_gpus(config: RunConfig, roles: Collection[Role], num_gpus: float, where: str) -> None:
    """Check that there are the GPUs that generators and training hold at the same time.

    Raises:
        ConfigError: If not: the run would wait for ever.
    """
    wanted = wanted_gpus(config, roles)
    if sum(wanted.values()) > num_gpus:
        asked = " and ".join(f"{count:g} ({field})" for field, count in wanted.items())
        raise ConfigError(
            f"{' and '.join(wanted)}: the run holds GPUs at the same time, {asked}, found "
            f"{num_gpus:g} on {where}; set training.use_gpu=false, lower "
            "generation.gpus_per_generator, or run on a machine with more GPUs"
        )


def wanted_gpus(config: RunConfig, roles: Collection[Role]) -> dict[str, float]:
    """GPUs that a job holds at the same time, by the field that asks for them; none left out."""
    generation, training = config.generation, config.training
    wanted: dict[str, float] = {}
    if "train" in roles and training.use_gpu:
        wanted["training.use_gpu"] = training.num_workers
    if "generate" in roles and generation.gpus_per_generator:
        each = generation.gpus_per_generator
        wanted["generation.gpus_per_generator"] = generation.num_generators * each
    return wanted


def wanted_cpus(config: RunConfig, roles: Collection[Role]) -> int:
    """CPUs that a job's generators and training workers hold at the same time."""
    generation, training = config.generation, config.training
    generating = generation.num_generators * generation.cpus_per_generator
    learning = training.num_workers * training.cpus_per_worker
    return generating * ("generate" in roles) + learning * ("train" in roles)


def expect_ray_can_start() -> None:
    """Check that Ray finds the folders that it writes on this machine.

    Raises:
        ConfigError: If a folder cannot be written, or its path is too long for a socket.
    """
    _expect_home()
    try:
        temporary = tempfile.gettempdir()
    except FileNotFoundError as error:
        raise ConfigError(f"TMPDIR: {error}; set TMPDIR to a folder that you may write") from error
    folder = os.environ.get("RAY_TMPDIR") or temporary
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(
            f"RAY_TMPDIR = {folder}: cannot be written, and Ray keeps its session there; set "
            "RAY_TMPDIR to a folder that you may write, or unset it"
        )
    longest = Path(folder, _SOCKET.format(pid="9" * _MOST_PID_DIGITS))
    excess = len(os.fsencode(longest)) - _SOCKET_BYTES
    if excess > 0:
        raise ConfigError(
            f"TMPDIR = {folder}: {excess} bytes too long for the sockets that Ray makes below it "
            f"({_SOCKET_BYTES} bytes is the system's limit); set RAY_TMPDIR=/tmp, or another short "
            "folder"
        )


def expect_cluster_answers(address: str) -> None:
    """Check within seconds that something listens at a cluster's address.

    Raises:
        ConfigError: If nothing does, or the address is that of the server of jobs.
    """
    remedy = f"start that cluster, correct the address, or {_RAY_HERE}"
    named = f"ray.address or RAY_ADDRESS = {address}"
    if address in _WITHOUT_HOST:
        return
    if address.startswith(("http://", "https://")):
        raise ConfigError(
            f"{named}: that is the server to which ray job submit sends jobs, not a cluster to "
            f"join; {_RAY_HERE}, or submit this command with ray job submit"
        )
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"{named}: {error}; {remedy}") from error
    if not host:
        raise ConfigError(f"{named}: wanted auto, host:port or ray://host:port; {remedy}")
    try:
        default = 10001 if parts.scheme == "ray" else 6379
        with socket.create_connection((host, port or default), timeout=ANSWER_WITHIN_S):
            return
    except OSError as error:
        raise ConfigError(f"{named}: no Ray cluster answers there ({error}); {remedy}") from error


def _expect_home() -> None:
    mode = os.environ.get("RAY_AUTH_MODE", "token").lower()
    if mode != "token" or any(os.environ.get(name) for name in _TOKEN_SETTINGS):
        return
    home = Path("~").expanduser()
    token = home / ".ray" / "auth_token"
    place = next(each for each in (token, token.parent, home, *home.parents) if each.exists())
    needed = os.R_OK if place == token else os.W_OK | os.X_OK
    if not os.access(place, needed):
        raise ConfigError(
            f"HOME = {home}: {place} is not yours to {'read' if place == token else 'write'}, and "
            f"Ray keeps the token of its cluster in {token}; set HOME to a folder of yours, or "
            "RAY_AUTH_MODE=disabled if nobody else can reach this machine"
        )
