"""Names under which the parts of a run find each other in a Ray cluster, each made here alone."""

from __future__ import annotations

import hashlib

_REGISTRY = "registry-e"


def run_id_of(url: str) -> str:
    """Name of a run: the last part of its URL and eight digits that make it unique."""
    digest = hashlib.blake2b(url.encode(), digest_size=4).hexdigest()
    return f"{url.rsplit('/', 1)[-1]}-{digest}"


def namespace_of(run_id: str) -> str:
    """Ray namespace of a run."""
    return f"synth-{run_id}"


def registry_name(epoch: int = 0) -> str:
    """Name, in the run's namespace, of the weight registry of the driver with this epoch."""
    return f"{_REGISTRY}{epoch}"


def is_registry(name: str) -> bool:
    """Whether an actor in a run's namespace is the weight registry of some driver."""
    return name.startswith(_REGISTRY)
