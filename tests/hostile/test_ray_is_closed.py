"""A Ray that a job starts shows no dashboard, and nothing in the project turns its token off."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from runs.on_ray import session as ray_session
from schemas.config_file import load_config

ROOT = Path(__file__).parents[2]
FOLDERS = (
    *("jobs", "pipeline", "trainers", "deployment", "storage", "sources", "perception", "schemas"),
    *("configs", "docs", "examples", "benchmarks"),
)
TEXTS = [
    path
    for part in (*(ROOT / folder for folder in FOLDERS), ROOT)
    for path in (part.rglob("*") if part != ROOT else part.iterdir())
    if path.suffix in {".py", ".yaml", ".yml", ".md", ".toml", ".sh"} or path.name == "Makefile"
]


@pytest.fixture
def started(monkeypatch):
    """What Ray would be started with; it is not."""
    found = {}
    monkeypatch.setattr(ray_session.ray, "init", lambda **options: found.update(options))
    return found


def test_a_local_ray_has_no_dashboard(started):
    config = load_config(ROOT / "configs/rooms_demo.yaml")
    ray_session._init(config, None)
    assert started["address"] == "local"
    assert started["include_dashboard"] is False
    assert "dashboard_host" not in started


def test_joining_a_cluster_changes_nothing_of_its_dashboard(started):
    ray_session._init(load_config(ROOT / "configs/rooms_demo.yaml"), "127.0.0.1:6379")
    assert not [name for name in started if "dashboard" in name]


def test_nothing_turns_tokens_off_or_opens_the_dashboard():
    assert len(TEXTS) > 100
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        modes = re.findall(r"RAY_AUTH_MODE[\"']?\s*[=:,]\s*[\"']?(\w+)", text)
        assert set(modes) <= {"token"}, path
        hosts = re.findall(r"dashboard[-_]host[=:\s\"']+([\w.:]+)", text)
        assert set(hosts) <= {"127.0.0.1", "localhost"}, path


@pytest.mark.parametrize("path", sorted(ROOT.glob("ray_cluster*.yaml")), ids=lambda path: path.name)
def test_every_node_of_a_cluster_file_starts_with_tokens(path):
    cluster = yaml.safe_load(path.read_text())
    for field in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [line for line in cluster[field] if "ray start" in line]
        assert starts
        assert all("RAY_AUTH_MODE=token ray start" in line for line in starts)
