"""What the clouds announce is understood, and nothing else is taken for it."""

from __future__ import annotations

import math
import socket
import time
from datetime import UTC, datetime

import pytest

from jobs.watch_spot import main
from ops.spot_notice import (
    AwsMetadata,
    GcpMetadata,
    MetadataError,
    Notice,
    find_metadata,
    parse_instance_action,
    parse_maintenance_event,
    wait_for_end,
)
from tests.kit.faults.metadata_server import MetadataServer, serve

AWS = "/latest/meta-data"
GCP = "/computeMetadata/v1/instance"
NOON_S = datetime(2026, 1, 1, 12, 0, tzinfo=UTC).timestamp()


@pytest.fixture
def server():
    with serve(MetadataServer()) as running:
        yield running


def ending_at(seconds_from_now: float) -> str:
    at = datetime.fromtimestamp(time.time() + seconds_from_now, UTC)
    return f'{{"action": "terminate", "time": "{at:%Y-%m-%dT%H:%M:%SZ}"}}'


@pytest.mark.parametrize("action", ["terminate", "stop", "hibernate"])
def test_aws_announces_an_action_with_its_time(action):
    text = f'{{"action": "{action}", "time": "2026-01-01T12:02:00Z"}}'
    notice = parse_instance_action(text, now_s=NOON_S)
    assert notice == Notice(kind="ending", message=f"aws spot {action}", remaining_s=120.0)


def test_a_time_that_has_passed_leaves_no_second():
    text = '{"action": "terminate", "time": "2026-01-01T11:00:00Z"}'
    assert parse_instance_action(text, now_s=NOON_S).remaining_s == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>",
        "[]",
        "null",
        "3",
        "{}",
        '{"action": "terminate"}',
        '{"action": "terminate", "time": "soon"}',
        '{"action": "terminate", "time": 5}',
        '{"action": "dance", "time": "2026-01-01T12:02:00Z"}',
    ],
)
def test_what_is_not_of_that_form_announces_nothing(text):
    assert parse_instance_action(text, now_s=NOON_S) is None


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("NONE", False),
        ("MIGRATE_ON_HOST_MAINTENANCE", False),
        ("TERMINATE_ON_HOST_MAINTENANCE\n", True),
        ("", False),
    ],
)
def test_gcp_maintenance_matters_where_it_ends_the_machine(text, ends):
    assert (parse_maintenance_event(text) is not None) == ends


def test_an_aws_spot_machine_stays_until_its_end_is_announced(server):
    server.items[f"{AWS}/instance-life-cycle"] = "spot"
    metadata = find_metadata(AwsMetadata(server.url))
    assert metadata.notice() is None
    server.items[f"{AWS}/spot/instance-action"] = ending_at(120)
    notice = metadata.notice()
    assert notice.kind == "ending"
    assert 115 < notice.remaining_s <= 120


def test_one_aws_token_serves_until_it_is_refused(server):
    metadata = AwsMetadata(server.url)
    for _ in range(3):
        assert metadata.notice() is None
    assert server.asked.count("PUT /latest/api/token") == 1
    server.tokens.clear()
    assert metadata.notice() is None
    assert server.asked.count("PUT /latest/api/token") == 2


def test_an_aws_rebalance_is_a_risk_told_once_and_not_the_end(server):
    server.items[f"{AWS}/events/recommendations/rebalance"] = '{"noticeTime": "2026-01-01T12:00Z"}'
    risks, waits = [], []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            server.items[f"{AWS}/spot/instance-action"] = ending_at(120)

    notice = wait_for_end(AwsMetadata(server.url), poll_s=5.0, on_risk=risks.append, sleep=sleep)
    assert notice.kind == "ending"
    assert waits == [5.0, 5.0, 5.0]
    assert [(risk.kind, risk.remaining_s) for risk in risks] == [("at_risk", math.inf)]


@pytest.mark.parametrize("life_cycle", ["on-demand", "scheduled", None])
def test_an_aws_machine_on_demand_is_not_watched(server, life_cycle):
    if life_cycle:
        server.items[f"{AWS}/instance-life-cycle"] = life_cycle
    assert find_metadata(AwsMetadata(server.url), GcpMetadata(server.url)) is None


def test_a_gcp_spot_machine_has_thirty_seconds(server):
    server.items[f"{GCP}/scheduling/preemptible"] = "TRUE"
    server.items[f"{GCP}/preempted"] = "FALSE"
    server.items[f"{GCP}/maintenance-event"] = "NONE"
    metadata = find_metadata(GcpMetadata(server.url))
    assert metadata.notice() is None
    server.items[f"{GCP}/preempted"] = "TRUE"
    assert metadata.notice().remaining_s == 30.0


@pytest.mark.parametrize(("policy", "is_watched"), [("TERMINATE", True), ("MIGRATE", False)])
def test_a_gcp_machine_on_demand_is_watched_if_maintenance_ends_it(server, policy, is_watched):
    server.items[f"{GCP}/scheduling/preemptible"] = "FALSE"
    server.items[f"{GCP}/scheduling/on-host-maintenance"] = policy
    assert (find_metadata(GcpMetadata(server.url)) is not None) == is_watched


def test_a_machine_without_metadata_is_none_of_a_cloud():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    nowhere = f"http://127.0.0.1:{port}"
    assert find_metadata(AwsMetadata(nowhere), GcpMetadata(nowhere)) is None


def test_a_slow_service_is_an_error_after_the_timeout(server):
    server.delay_s = 0.4
    started_s = time.monotonic()
    with pytest.raises(MetadataError):
        AwsMetadata(server.url, timeout_s=0.1).notice()
    assert time.monotonic() - started_s < 0.35


@pytest.mark.parametrize("cloud", [AwsMetadata, GcpMetadata])
def test_errors_are_waited_out(server, cloud):
    server.failures = [500, 503]
    server.items[f"{AWS}/spot/instance-action"] = ending_at(120)
    server.items[f"{GCP}/preempted"] = "TRUE"
    waits = []
    assert wait_for_end(cloud(server.url), poll_s=5.0, sleep=waits.append).kind == "ending"
    assert len(waits) == 2


def test_a_proxy_of_the_environment_is_not_asked(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert AwsMetadata(server.url).notice() is None


def test_the_watcher_ends_where_there_is_nothing_to_watch(server, capsys):
    main(["--aws-url", server.url])
    assert "nothing to watch" in capsys.readouterr().out


def test_the_watcher_drains_the_node_with_what_is_left_of_the_deadline(server, monkeypatch):
    import pipeline.on_ray.drain

    calls = []
    monkeypatch.setattr(
        pipeline.on_ray.drain, "drain_node", lambda node_id, **how: calls.append((node_id, how))
    )
    server.items[f"{AWS}/instance-life-cycle"] = "spot"
    server.items[f"{AWS}/spot/instance-action"] = ending_at(120)
    main(["--aws-url", server.url, "--address", "10.0.0.1:6379", "--node-id", "ab"])
    ((node_id, how),) = calls
    assert (node_id, how["address"]) == ("ab", "10.0.0.1:6379")
    assert how["message"] == "aws spot terminate"
    assert 105 < how["remaining_s"] <= 115
