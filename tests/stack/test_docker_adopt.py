"""A RAGFlow from other files: seen, told about, and left alone."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker_engine
import pytest
import yaml
from docker_engine import Engine, find_compose, write_override

pytestmark = [pytest.mark.docker, pytest.mark.slow]
PASSWORD = "infini_rag_flow"
# As upstream's docker-compose.yml names them (RAGFlow v0.27); its ports are on every address.
UPSTREAM = {
    "services": {
        "ragflow-cpu": {
            "ports": ["80:80", "9380:9380"],
            "environment": {"MYSQL_PASSWORD": PASSWORD},
            "depends_on": ["mysql"],
            "volumes": ["mysql_data:/own"],
        },
        "mysql": {"environment": {"MYSQL_ROOT_PASSWORD": PASSWORD}, "ports": ["3306:3306"]},
    },
    "volumes": {"mysql_data": {}},
}


@pytest.fixture
def upstream(engine: Engine, tmp_path: Path) -> Any:
    base = tmp_path / "docker" / "docker-compose.yml"
    base.parent.mkdir()
    base.write_text(yaml.safe_dump(UPSTREAM), encoding="utf-8")
    engine.docker("tag", docker_engine.IMAGE, "infiniflow/ragflow:v0.26.0")
    images = {"ragflow-cpu": "infiniflow/ragflow:v0.26.0"}
    override = write_override(
        base.with_name("stub.yaml"), {}, ("ragflow-cpu", "mysql"), images, keep_check=False
    )
    subprocess.run(
        [find_compose(), "-f", str(base), "-f", str(override), "up", "-d"],
        env=os.environ | engine.environment, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    yield engine
    engine.clear()


def test_adopt_looks_and_touches_nothing(upstream: Engine, rfctl: Callable[..., Any]) -> None:
    def call(*arguments: str) -> Any:
        return rfctl(*arguments, env=upstream.environment)

    before = upstream.docker("ps", "-a", "--format", "{{.ID}} {{.CreatedAt}}")
    assert call("stack", "status").err.startswith("error[stack.not-initialised]")
    assert call("stack", "adopt", "other").err.startswith(
        "error[stack.adopt-none]: No Compose project called other"
    )
    result = call("stack", "adopt")
    assert (result.code, result.out) == (
        0,
        "Looking at the project docker: infiniflow/ragflow:v0.26.0, http://127.0.0.1:80; "
        "rfctl never starts, stops or changes it\n",
    )
    assert result.err == "Next: rfctl profile add docker --ragflow http://127.0.0.1:80\n"

    status = json.loads(call("stack", "status", "--json").out)
    assert (status["running"], status["web_url"], status["api_url"]) == (
        True,
        "http://127.0.0.1:80",
        "http://127.0.0.1:9380",
    )
    assert [row["name"] for row in status["services"]] == ["mysql", "ragflow-cpu"]
    logs = call("stack", "logs")
    assert "ragflow-cpu-1  | INFO task_executor_0 reported heartbeat: {}\n" in logs.out
    assert PASSWORD not in logs.out
    assert call("stack", "logs", "nothing").err.startswith("error[stack.service-unknown]")

    report = json.loads(call("doctor", "--only", "rag,net,docker", "--json").out)
    verdicts = {row["id"]: row["verdict"] for row in report["findings"]}
    wanted = {"rag.containers": "ok", "rag.secrets": "fail", "net.exposed": "fail", "rag.executor": "ok"}
    assert {id: verdicts[id] for id in wanted} == wanted, report
    shown = next(row for row in report["findings"] if row["id"] == "rag.secrets")
    assert "MYSQL_PASSWORD (default)" in shown["message"]
    assert PASSWORD not in json.dumps(report)

    for verb in (["up"], ["down"], ["backup"], ["upgrade", "--yes"], ["pin"], ["restore", ".", "--yes"]):
        refused = call("stack", *verb)
        assert (refused.code, refused.err.split("]")[0]) == (7, "error[stack.adopted-only"), verb
    assert upstream.docker("ps", "-a", "--format", "{{.ID}} {{.CreatedAt}}") == before
    assert call("stack", "adopt", "--forget").code == 0
    assert call("stack", "status").err.startswith("error[stack.not-initialised]")
    assert upstream.docker("ps", "-a", "--format", "{{.ID}} {{.CreatedAt}}") == before
