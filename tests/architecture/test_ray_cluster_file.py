"""ray_cluster.yaml is what Ray's own schema accepts, and its node types fit the loop."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


def test_rays_own_schema_accepts_the_cluster_file(cluster: dict[str, Any]) -> None:
    spec = find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    schema = json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)


def test_the_head_computes_nothing_and_generators_are_apart_from_trainers(
    cluster: dict[str, Any],
) -> None:
    types = cluster["available_node_types"]
    assert types[cluster["head_node_type"]]["resources"]["CPU"] == 0
    assert types["generator"]["labels"]["ray-subcluster"] == "generator"
    assert "ray-subcluster" not in types["trainer"]["labels"]
