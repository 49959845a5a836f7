"""`rfctl stack` on a real Docker engine: the shipped compose file and health checks, with stubs inside."""

from __future__ import annotations

import json
import re
import time
import zipfile
from typing import Any

import docker_engine
import pytest
from docker_engine import CORE, Stack

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def test_up_ends_with_the_address_when_everything_is_healthy(stack: Stack) -> None:
    begun = time.monotonic()
    result = stack("stack", "up", "--timeout", "60")
    assert result.code == 0, result.err
    assert time.monotonic() - begun < 30
    assert result.out.endswith("RAGFlow is ready: http://127.0.0.1:8080\n")
    status = json.loads(stack("stack", "status", "--json").out)
    assert status["running"] is True
    assert {service["name"]: service["health"] for service in status["services"]} == dict.fromkeys(
        CORE, "healthy"
    )
    assert [service["ports"] for service in status["services"] if service["ports"]] == [
        "127.0.0.1:8080, 127.0.0.1:9380"
    ]
    ping = stack.engine.inside("curl", "-sS", "-m", "5", "http://127.0.0.1:9380/api/v1/system/ping")
    assert ping.stdout == "pong"
    listening = stack.engine.inside("ss", "-Hltn").stdout
    assert {line.split()[3] for line in listening.splitlines()} == {"127.0.0.1:8080", "127.0.0.1:9380"}
    _secrets_are_where_they_belong(stack)
    _doctor_agrees(stack)
    _a_killed_container_is_seen_and_comes_back(stack)
    volumes = set(stack.engine.docker("volume", "ls", "-q").split())
    assert {"rfctl_mysql_data", "rfctl_esdata01", "rfctl_minio_data", "rfctl_redis_data"} <= volumes
    down = stack("stack", "down")
    assert (down.code, down.out) == (0, "The stack is down; its data stays in volumes\n")
    assert set(stack.engine.docker("volume", "ls", "-q").split()) == volumes
    assert stack("stack", "down").out == "The stack is not running\n"
    assert stack("stack", "status").out == "The stack is not running\n"


def _secrets_are_where_they_belong(stack: Stack) -> None:
    secrets = stack.secrets()
    expected = {
        "mysql": {"MYSQL_PASSWORD"},
        "minio": {"MINIO_PASSWORD"},
        "redis": {"REDIS_PASSWORD"},
        "es01": {"ELASTIC_PASSWORD"},
        "ragflow": set(secrets),
    }
    for service, names in expected.items():
        environment = stack.engine.docker("inspect", "-f", "{{json .Config.Env}}", f"rfctl-{service}-1")
        assert {name for name, value in secrets.items() if value in environment} == names
    shown = stack("stack", "logs", "ragflow")
    assert "reported heartbeat" in shown.out
    assert not any(value in shown.out for value in secrets.values())
    assert "redis-1  | INFO" in stack("stack", "logs").out
    unknown = stack("stack", "logs", "nothing")
    assert (unknown.code, "Its services: es01, minio, mysql, ragflow, redis" in unknown.err) == (2, True)


def _doctor_agrees(stack: Stack) -> None:
    report = json.loads(stack("doctor", "--only", "docker,net,rag", "--json").out)
    verdicts = {row["id"]: row["verdict"] for row in report["findings"]}
    wanted = ("docker.engine", "docker.compose", "net.exposed", "net.ports", "rag.containers", "rag.secrets")
    assert {id: verdicts[id] for id in wanted} == dict.fromkeys(wanted, "ok"), report
    assert {verdicts[id] for id in ("rag.executor", "rag.password-drift", "rag.es-disk")} == {"ok"}
    # Nothing serves models on this machine, and the container sees that.
    view = next(row for row in report["findings"] if row["id"] == "net.container-to-host")
    assert view["verdict"] == "warn"
    assert "refuses" in view["message"]
    assert not any(value in json.dumps(report) for value in stack.secrets().values())
    # The images are those of the compose files in use, stubs here; the limits those of the small size.
    assert {verdicts[id] for id in ("docker.registry", "docker.latest")} == {"ok"}
    begun = time.monotonic()
    archive = stack.folder / "report.zip"
    whole = stack("doctor", "--json", "--report", str(archive))
    assert time.monotonic() - begun < 15  # 5 s on a machine with nothing else to do
    rows = {row["id"]: row for row in json.loads(whole.out)["findings"]}
    assert rows["host.ram"]["evidence"]["wanted"] == "10.2 GB"
    assert rows["host.disk"]["evidence"]["path"] == f"{stack.engine.folder}/data"
    # Redis has its password in its arguments, the others in their environment.
    with zipfile.ZipFile(archive) as report_file:
        texts = [report_file.read(name).decode() for name in report_file.namelist()]
    assert len(texts) == 2
    assert not any(value in text for text in texts for value in stack.secrets().values())


def _a_killed_container_is_seen_and_comes_back(stack: Stack) -> None:
    stack.engine.docker("kill", "rfctl-redis-1")
    found = json.loads(stack("stack", "status", "--json").out)
    assert found["running"] is False
    assert [service["fault"] for service in found["services"] if service["name"] == "redis"] == ["stopped"]
    assert stack("stack", "up", "--timeout", "60").code == 0


def test_a_port_that_is_taken_is_named(stack: Stack) -> None:
    stack.engine.docker(
        "run", "-d", "-p", "127.0.0.1:9380:1", "-v", "/usr/bin:/usr/bin:ro", "-v", "/usr/lib:/usr/lib:ro",
        "-v", "/usr/lib64:/usr/lib64:ro", docker_engine.IMAGE, "/usr/bin/sleep", "100",
    )  # fmt: skip
    result = stack("stack", "up", "--timeout", "60")
    assert result.code == 1
    assert result.err.splitlines()[1:4] == [
        "error[stack.port-taken]: A port is taken: 127.0.0.1:9380",
        "  why: Another program listens there (Bind for 127.0.0.1:9380 failed: port is already allocated)",
        "  next: Set RFCTL_API_PORT in stack.env to a free port, or: rfctl doctor --only net --fix",
    ]
    doctor = json.loads(stack("doctor", "--only", "net.ports", "--json").out)
    assert doctor["findings"][0]["id"] == "net.ports"


def test_memory_that_runs_out_is_named(stack: Stack) -> None:
    stack.modes["minio"] = "oom"
    stack.set(MINIO_MEM_LIMIT="48m")
    result = stack("stack", "up", "--timeout", "30")
    assert result.code == 1, result.err
    assert "error[stack.oom]: minio was killed for its memory (exit 137)\n" in result.err


def test_elasticsearch_that_refuses_the_machine_is_explained(stack: Stack) -> None:
    stack.modes["es01"] = "exit78"
    result = stack("stack", "up", "--timeout", "20")
    assert result.code == 1
    assert "error[stack.bootstrap]: es01 refuses to start on this machine (exit 78)\n" in result.err
    assert "next: sudo sysctl -w vm.max_map_count=262144\n" in result.err
    assert "max virtual memory areas" in stack("stack", "logs", "es01").out
    report = json.loads(stack("doctor", "--only", "rag.containers", "--json").out)
    assert report["findings"][0]["verdict"] == "fail"


def test_a_crash_loop_is_no_success(stack: Stack) -> None:
    """Compose calls a service without a health check healthy as soon as it was started (exit 0)."""
    stack.modes["minio"] = "exit1"
    stack.extra["minio"] = {"healthcheck": {"disable": True}}
    stack.extra["ragflow"] = {"depends_on": {"minio": {"condition": "service_started"}}}
    result = stack("stack", "up", "--timeout", "30")
    assert result.code == 1
    assert re.search(r"error\[stack\.(loop|stopped)\]: minio ", result.err), result.err
    assert "next: rfctl stack logs minio\n" in result.err
    found = {
        row["name"]: row["fault"] for row in json.loads(stack("stack", "status", "--json").out)["services"]
    }
    assert found.pop("minio") in ("loop", "stopped")
    assert set(found.values()) == {""}


def test_a_failing_health_check_is_shown(stack: Stack) -> None:
    stack.modes["minio"] = "dead"
    result = stack("stack", "up", "--timeout", "60")
    assert result.code == 1
    assert "error[stack.unhealthy]: minio runs but is not healthy: curl: (7) Failed to connect" in result.err


def test_more_executors(stack: Stack) -> None:
    stack.services = (*CORE, "executor")
    stack.modes["executor"] = "dead"
    result = stack("stack", "up", "--timeout", "60", "--executors", "2")
    assert result.code == 1
    # The stub is no task executor: the shipped health check must see that.
    assert "error[stack.unhealthy]: executor runs but is not healthy: exit 1\n" in result.err
    stack.modes["executor"] = "task_executor"
    result = stack("stack", "up", "--timeout", "60", "--executors", "2")
    assert result.code == 0, result.err
    assert len(re.findall(r"^executor +running +healthy", result.out, re.MULTILINE)) == 2
    logs = stack("stack", "logs", "executor").out.splitlines()
    assert [line.partition("  | ")[0] for line in logs] == ["executor-1", "executor-2"]


def test_what_the_engine_refuses_is_explained(stack: Stack) -> None:
    """No GPU runtime, no right to raise a limit, no network to download an image from."""
    stack.extra["mysql"] = {"ulimits": {"memlock": {"soft": -1, "hard": -1}}}
    limit = stack("stack", "up", "--timeout", "30")
    if "error[stack.rlimit]" not in limit.err:
        # An engine with all rights may raise the limit.
        assert limit.code == 0, limit.err
    stack.extra.clear()
    stack.images["mysql"] = "rfctl-test/not-here:1"
    offline = stack("stack", "up", "--timeout", "30")
    assert (offline.code, "error[stack.image-offline]: An image cannot be downloaded: " in offline.err) == (
        1,
        True,
    )
    assert "next: Set a mirror in Docker's daemon.json or RAGFLOW_IMAGE in stack.env" in offline.err
    stack.images.clear()
    stack.set(RFCTL_ADDONS="gpu")
    stack.extra["ragflow"] = {"depends_on": {name: {"condition": "service_started"} for name in CORE[1:]}}
    gpu = stack("stack", "up", "--timeout", "30")
    assert gpu.code == 1
    assert "error[stack.no-gpu]: Docker cannot use the GPU: " in gpu.err
    assert 'could not select device driver "nvidia"' in gpu.err


def test_the_engine_is_down(stack: Stack) -> None:
    result = stack("stack", "up", DOCKER_HOST="unix:///nowhere/docker.sock")
    assert result.code == 3
    assert "error[stack.engine-down]: The Docker engine does not answer: " in result.err


def test_the_stack_comes_back_with_the_engine(stack: Stack) -> None:
    assert stack("stack", "up", "--timeout", "60").code == 0
    stack.engine.restart()
    deadline = time.monotonic() + 60
    while not _status(stack)["running"]:
        assert time.monotonic() < deadline
    assert stack.engine.inside("curl", "-sS", "-m", "5", "http://127.0.0.1:8080/").returncode == 0
    # What somebody stopped stays so.
    stack.engine.docker("stop", "rfctl-redis-1")
    stack.engine.restart()
    found = {row["name"]: row["fault"] for row in _status(stack)["services"]}
    assert found["redis"] == "stopped"


def _status(stack: Stack) -> dict[str, Any]:
    """As soon as the engine that was started again tells it."""
    deadline = time.monotonic() + 30
    while (answer := stack("stack", "status", "--json")).code:
        assert (answer.code, time.monotonic() < deadline) == (3, True), answer.err
    document: dict[str, Any] = json.loads(answer.out)
    return document


def test_docker_without_compose(stack: Stack) -> None:
    """Looking needs no Compose; what does says which package is missing."""
    bare = {"DOCKER_CONFIG": str(stack.folder)}
    for verb in ("status", "logs"):
        assert stack("stack", verb, **bare).code == 0
    for verb in ("up", "down", "pin", "upgrade"):
        result = stack("stack", verb, **bare)
        assert (result.code, "error[stack.no-compose]" in result.err) == (1, True), result.err
        assert "docker-compose-plugin" in result.err
        assert "--ansi" not in result.err
