"""The cluster files are what Ray and KubeRay take, and fit the loop."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from jobs.watch_spot import _parse

ROOT = Path(__file__).parents[2]
CLUSTERS = ("ray_cluster.yaml", "ray_cluster_gcp.yaml")
RAY_VERSION = re.search(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text())


@pytest.fixture(params=CLUSTERS)
def cluster(request) -> dict[str, Any]:
    return load(request.param)


@pytest.fixture(scope="module")
def ray_schema() -> dict[str, Any]:
    origin = find_spec("ray").origin
    return json.loads((Path(origin).parent / "autoscaler" / "ray-schema.json").read_text())


def is_spot(node_type: dict[str, Any]) -> bool:
    config = node_type["node_config"]
    aws = config.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    return aws or any(each.get("preemptible") for each in config.get("scheduling", []))


def test_rays_own_schema_accepts_the_file(cluster, ray_schema):
    jsonschema.validate(cluster, ray_schema)


def test_rays_own_schema_refuses_a_wrong_file(cluster, ray_schema):
    cluster["available_node_types"]["generator"]["max_wrokers"] = 3
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster, ray_schema)


def test_the_head_is_a_node_type_and_computes_nothing(cluster):
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert not is_spot(head)
    (start,) = [c for c in cluster["head_start_ray_commands"] if "ray start" in c]
    assert "--num-cpus=0" in start
    assert "--dashboard-host=127.0.0.1" in start


def test_only_generators_are_spot(cluster):
    types = cluster["available_node_types"]
    assert {name for name, each in types.items() if is_spot(each)} == {"generator"}


def test_labels_keep_generators_and_trainers_apart(cluster):
    types = cluster["available_node_types"]
    assert {name: each["labels"]["role"] for name, each in types.items()} == {
        name: name for name in ("head", "trainer", "generator")
    }
    with_subcluster = [n for n, each in types.items() if "ray-subcluster" in each["labels"]]
    assert with_subcluster == ["generator"]


def test_all_workers_fit_and_idle_ones_go(cluster):
    types = cluster["available_node_types"]
    workers = [each for name, each in types.items() if name != cluster["head_node_type"]]
    assert all(each["min_workers"] == 0 < each["max_workers"] for each in workers)
    assert cluster["max_workers"] == sum(each["max_workers"] for each in workers)
    assert cluster["idle_timeout_minutes"] >= 5


def test_every_node_asks_for_the_token(cluster):
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for side in ("head", "worker"):
        starts = [c for c in cluster[f"{side}_start_ray_commands"] if "ray start" in c]
        assert starts
        assert all("RAY_AUTH_MODE=token ray start" in command for command in starts)


def test_setup_installs_what_was_tested_together(cluster):
    (setup,) = [c for c in cluster["setup_commands"] if "constraints.txt" in c]
    assert "/pip install -c constraints.txt -e " in setup
    python = re.search(r"--python (\S+)", "".join(cluster["setup_commands"]))[1]
    assert f'requires-python = ">={python}"' in (ROOT / "pyproject.toml").read_text()
    extra = re.search(r"\[(\w+)\]", setup)[1]
    assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()


def test_every_worker_watches_for_its_end(cluster):
    (watch,) = [c for c in cluster["worker_start_ray_commands"] if "jobs.watch_spot" in c]
    assert not any("watch_spot" in command for command in cluster["head_start_ray_commands"])
    options = re.search(r"jobs\.watch_spot (.*?) >", watch)[1]
    assert _parse(options.split()).address == "$RAY_HEAD_IP:6379"


def test_the_two_clouds_have_the_same_node_types():
    aws, gcp = (load(name)["available_node_types"] for name in CLUSTERS)
    for name in aws:
        assert aws[name]["labels"] == gcp[name]["labels"]
        assert aws[name].get("max_workers") == gcp[name].get("max_workers")


# KubeRay's schema comes in no package: these are the fields of ray.io/v1 (operator 1.5) that the
# manifest uses, with their types.
RAY_JOB_FIELDS = {
    "entrypoint": str,
    "backoffLimit": int,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "submissionMode": str,
    "submitterConfig": dict,
    "rayClusterSpec": dict,
}
RAY_CLUSTER_FIELDS = {
    "rayVersion": str,
    "authOptions": dict,
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": dict,
    "headGroupSpec": dict,
    "workerGroupSpecs": list,
}
AUTOSCALER_FIELDS = {"version": str, "idleTimeoutSeconds": int, "upscalingMode": str}
HEAD_FIELDS = {"serviceType": str, "rayStartParams": dict, "template": dict}
WORKER_FIELDS = {
    "groupName": str,
    "replicas": int,
    "minReplicas": int,
    "maxReplicas": int,
    "rayStartParams": dict,
    "template": dict,
}


@pytest.fixture
def job() -> dict[str, Any]:
    return load("kuberay/ray_job.yaml")


def expect_fields(found: dict[str, Any], fields: dict[str, type]) -> None:
    assert set(found) <= set(fields), f"unknown: {set(found) - set(fields)}"
    for name, value in found.items():
        assert type(value) is fields[name], name


def test_the_ray_job_has_kuberays_fields_and_types(job):
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job) == {"apiVersion", "kind", "metadata", "spec"}
    spec = job["spec"]
    expect_fields(spec, RAY_JOB_FIELDS)
    assert spec["submissionMode"] in {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"}
    cluster = spec["rayClusterSpec"]
    expect_fields(cluster, RAY_CLUSTER_FIELDS)
    expect_fields(cluster["autoscalerOptions"], AUTOSCALER_FIELDS)
    assert cluster["autoscalerOptions"]["version"] in {"v1", "v2"}
    assert cluster["autoscalerOptions"]["upscalingMode"] in {
        "Default",
        "Aggressive",
        "Conservative",
    }
    expect_fields(cluster["headGroupSpec"], HEAD_FIELDS)
    for group in cluster["workerGroupSpecs"]:
        expect_fields(group, WORKER_FIELDS)
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_a_pod_of_every_group_names_one_container_with_limits(job):
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(type(value) is str for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        assert {"name", "image", "resources"} <= set(container)
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_ray_job_asks_for_a_token_and_the_tested_ray(job):
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == RAY_VERSION


def test_a_failed_driver_is_retried_as_a_whole_and_the_cluster_goes(job):
    spec = job["spec"]
    assert spec["backoffLimit"] >= 1
    assert spec["submitterConfig"]["backoffLimit"] == 0
    assert spec["shutdownAfterJobFinishes"] is True


def test_kubernetes_and_machines_use_the_same_labels(job):
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    machines = load("ray_cluster.yaml")["available_node_types"]
    for group in cluster["workerGroupSpecs"]:
        pairs = group["rayStartParams"]["labels"].split(",")
        assert dict(pair.split("=") for pair in pairs) == machines[group["groupName"]]["labels"]
        assert group["maxReplicas"] == machines[group["groupName"]]["max_workers"]


def test_a_pod_that_is_evicted_drains_its_node_first(job):
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (generator,) = [group for group in groups if group["groupName"] == "generator"]
    spec = generator["template"]["spec"]
    (container,) = spec["containers"]
    command = container["lifecycle"]["preStop"]["exec"]["command"][-1]
    options = re.search(r"jobs\.watch_spot (.*?);", command)[1]
    parsed = _parse(options.split())
    assert 0 < parsed.leave_in_s < spec["terminationGracePeriodSeconds"]
