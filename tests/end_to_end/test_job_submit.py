"""The same job on a cluster, handed in through Ray's job interface under token authentication."""

from __future__ import annotations

import json
import secrets
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.job_process import (
    FEW_ROOMS,
    arguments_of,
    environment,
    ray_folder,
    running,
)
from tests.kit.run_reader import manifest_rows, sha256, tars, version_files

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

RAY = str(Path(sys.executable).with_name("ray"))
NUM_CPUS = 3
"""One generator, one training worker, one for what passes through."""


@dataclass
class Head:
    """A head node on this machine alone."""

    address: str
    environment: dict[str, str]

    def ask(self, path: str, *, token: str | None) -> dict:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(self.address + path, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def answers(self) -> bool:
        try:
            self.ask("/api/version", token=self.token)
        except OSError:
            return False
        return True

    @property
    def token(self) -> str:
        return self.environment["RAY_AUTH_TOKEN"]


@pytest.fixture
def head(tmp_path) -> Iterator[Head]:
    port, dashboard, agent, client = free_ports(4)
    with ray_folder() as folder:
        # The job's own `python` is the first on the head node's path.
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        known = environment(
            folder, PATH=path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(16)
        )
        command = [
            *(RAY, "start", "--head", "--block", "--disable-usage-stats"),
            *(f"--temp-dir={folder}", f"--num-cpus={NUM_CPUS}"),
            *("--node-ip-address=127.0.0.1", f"--port={port}", "--object-store-memory=100000000"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
            *(f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"),
            *("--min-worker-port=0", "--max-worker-port=0"),
        ]
        with running(command, log=tmp_path / "head.log", environment=known) as node:
            found = Head(f"http://127.0.0.1:{dashboard}", known)
            node.wait_until(found.answers, "the head node's dashboard")
            yield found


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def test_the_job_runs_on_a_cluster_it_was_submitted_to(head, tmp_path):
    with pytest.raises(urllib.error.HTTPError) as refused:
        head.ask("/api/jobs/", token=None)
    assert refused.value.code in {401, 403}

    run = tmp_path / "run"
    changes = (*FEW_ROOMS, "evaluation.control=false")
    arguments = arguments_of("configs/rooms_demo.yaml", run, *changes)
    command = [
        *(RAY, "job", "submit", "--address", head.address, "--working-dir", ".", "--"),
        *("python", "jobs/self_improve.py", *arguments),
    ]
    log = tmp_path / "submit.log"
    with running(command, log=log, environment=head.environment) as submission:
        ended = submission.wait()
    assert ended.code == 0, ended.output
    (job,) = head.ask("/api/jobs/", token=head.token)
    assert job["status"] == "SUCCEEDED", job["message"]
    assert f"a cluster, 1 node, {NUM_CPUS} CPUs" in ended.output

    results = json.loads((run / "results.json").read_text())
    assert {"warm_up", "self_improved"} <= set(results)
    assert len(manifest_rows(run)) == 2 * 8
    promised = tars(run)
    assert promised
    assert {uri: sha256(run / uri) for uri in promised} == promised
    assert len(version_files(run)) >= 3
