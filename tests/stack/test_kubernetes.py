"""What is under deploy/k8s and deploy/pool: rendered by Helm, held to Kubernetes' schemas, run by nginx."""

from __future__ import annotations

import http.client
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rfctl.core.data import data_folder
from rfctl.stack.project import pins

FOLDER = data_folder("deploy") / "k8s"
CHART = FOLDER / "executors"
POOL = data_folder("deploy") / "pool" / "ollama-pool.conf"
VERSION = "1.37"

helm = pytest.importorskip("helm_python.chart", reason="the package helm-python-sdk is for development only")
kubernetes_validate = pytest.importorskip(
    "kubernetes_validate", reason="the package kubernetes-validate is for development only"
)

CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "one": {"replicas": 1, "networkPolicy": {"enabled": False}},
    "everything": {
        "release": "rag",
        "secret": "rag-ragflow-env-config",
        "replicas": 4,
        "env": {"EMBEDDING_BATCH_SIZE": "32"},
        "image": {"pullSecrets": ["registry"]},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {}},
        "networkPolicy": {
            "outside": [{"cidr": "192.168.7.0/24", "ports": [11434, 3306]}],
            "ingressNamespaces": ["traefik", "istio-system"],
        },
    },
    "external": yaml.safe_load((FOLDER / "executors-external.yaml").read_text(encoding="utf-8")),
}


def render(values: dict[str, Any]) -> list[dict[str, Any]]:
    with helm.Chart.load(CHART) as chart:
        texts = chart.render(values, name="executors", namespace="ragflow")
    found = [document for text in texts.values() for document in yaml.safe_load_all(text) if document]
    assert found
    return found


def pod(objects: list[dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = next(one for one in objects if one["kind"] == "Deployment")["spec"]["template"][
        "spec"
    ]
    return spec


@pytest.mark.parametrize("name", CASES)
def test_the_chart_is_clean_and_every_object_is_valid(name: str) -> None:
    report = helm.lint(CHART, CASES[name], strict=True)
    assert report["errors"] == []
    assert [one for one in report["messages"] if one["severity"] > 1] == []
    for document in render(CASES[name]):
        kubernetes_validate.validate(document, VERSION, strict=True)


def test_the_validator_would_say_no() -> None:
    document = next(one for one in render({}) if one["kind"] == "Deployment")
    document["spec"]["replicaas"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize("name", CASES)
def test_every_object_keeps_to_the_policy(name: str) -> None:
    objects = render(CASES[name])
    spec = pod(objects)
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert all("hostPath" not in volume for volume in spec["volumes"])
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        assert re.search(r":v\d+\.\d+\.\d+$", container["image"])
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
        assert container["securityContext"]["privileged"] is False
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["livenessProbe"]
        assert container["envFrom"]
        # Secrets come from the release's secret, never as text.
        assert not [one for one in container.get("env", []) if "PASSWORD" in one["name"]]
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(names) == len(set(names))
    assert all(len(name) <= 63 for _, name in names)


def test_the_network_is_closed_but_for_what_is_said() -> None:
    policies = {
        one["metadata"]["name"]: one["spec"]
        for one in render(CASES["everything"])
        if one["kind"] == "NetworkPolicy"
    }
    executor = policies["executors-executor"]
    assert executor["ingress"] == []
    blocks = [
        peer["ipBlock"]["cidr"] for rule in executor["egress"] for peer in rule["to"] if "ipBlock" in peer
    ]
    assert blocks == ["192.168.7.0/24"]
    release = policies["executors-executor-release"]
    assert release["podSelector"]["matchLabels"] == {"app.kubernetes.io/instance": "rag"}
    assert [list(peer) for rule in release["ingress"] for peer in rule["from"]] == [
        ["podSelector"],
        ["podSelector"],
    ]
    page = policies["executors-executor-page"]["ingress"][0]
    assert [one["port"] for one in page["ports"]] == ["http", "http-api"]
    assert len(page["from"]) == 2


@pytest.mark.parametrize(
    "values",
    [
        {"image": {"repository": "infiniflow/ragflow", "tag": "latest"}},
        {"replicas": -1},
        {"replica": 3},
        {"env": {"A": 1}},
        {"networkPolicy": {"outside": [{"cidr": "everywhere", "ports": [1]}]}},
    ],
)
def test_values_that_make_no_sense_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=r"(?i)values|schema|additional|pattern|minimum|type"):
        render(values)


def test_the_values_avoid_the_traps_of_the_chart() -> None:
    values = yaml.safe_load((FOLDER / "values.yaml").read_text(encoding="utf-8"))
    external = yaml.safe_load((FOLDER / "values-external.yaml").read_text(encoding="utf-8"))
    pinned = pins()["images"]["ragflow"]
    assert f"{values['ragflow']['image']['repository']}:{values['ragflow']['image']['tag']}" == pinned
    own = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["image"]
    assert f"{own['repository']}:{own['tag']}" == pinned
    # Facts of the chart at v0.27.0: without the scheme nothing stands behind nginx; infinity needs AVX2; the
    # admin server has a known password.
    assert values["env"]["API_PROXY_SCHEME"] == "python"
    assert values["env"]["DOC_ENGINE"] == "elasticsearch"
    assert values["ragflow"]["admin"] == {"enabled": False}
    for document in (values, external):
        text = json.dumps(document)
        assert "infini_rag_flow" not in text
        assert "latest" not in text
        assert not [name for name in document["env"] if name.endswith(("PASSWORD", "SECRET_KEY"))]
        assert all(isinstance(value, str) for value in document["env"].values())
    for name, part in values.items():
        if name != "env":
            assert part["deployment"]["resources"]["requests"]["memory"]
    assert {name for name, part in external.items() if part.get("enabled") is False} == {
        "mysql",
        "redis",
        "minio",
    }


def test_yaml_is_well_formed() -> None:
    program = Path(sys.executable).with_name("yamllint")
    if not program.exists():
        pytest.skip("yamllint is not installed")
    files = [str(path) for path in FOLDER.rglob("*.yaml") if "templates" not in path.parts]
    rules = "{extends: default, rules: {document-start: disable, line-length: {max: 110}, braces: disable}}"
    done = subprocess.run(
        [program, "-s", "-d", rules, *files], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout


class Backend(http.server.BaseHTTPRequestHandler):
    """An Ollama that says its own port and the Host that it was asked for."""

    def do_GET(self) -> None:
        body = f"{self.server.server_address[1]} {self.headers['Host']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture
def backends() -> Iterator[list[http.server.ThreadingHTTPServer]]:
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), Backend) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield servers
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_pool_serves_and_survives_a_dead_server(
    tmp_path: Path, backends: list[http.server.ThreadingHTTPServer]
) -> None:
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed (Debian: nginx-light)")
    ports = [server.server_address[1] for server in backends]
    port = free_port()
    text = POOL.read_text(encoding="ascii")
    text = text.replace("10.0.0.11:11434", f"127.0.0.1:{ports[0]}").replace(
        "10.0.0.12:11434", f"127.0.0.1:{ports[1]}"
    )
    text = text.replace("127.0.0.1:11435", f"127.0.0.1:{port}")
    places = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(
        f"daemon off;\npid {tmp_path}/pid;\nerror_log {tmp_path}/log;\nworker_processes 1;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{places}{text}}}\n",
        encoding="ascii",
    )
    command = [program, "-p", str(tmp_path), "-e", str(tmp_path / "log"), "-c", str(configuration)]
    tested = subprocess.run([*command, "-t"], capture_output=True, encoding="utf-8", check=False)
    assert tested.returncode == 0, tested.stderr
    server = subprocess.Popen(command)
    try:
        wait_for(port)
        answers = {get(port, "/api/tags") for _ in range(6)}
        assert answers == {(200, f"{one} localhost:11434") for one in ports}
        assert get(port, "/api/pull")[0] == 403
        backends[1].shutdown()
        backends[1].server_close()
        assert {get(port, "/api/tags") for _ in range(6)} == {(200, f"{ports[0]} localhost:11434")}
    finally:
        server.terminate()
        server.wait(timeout=10)


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("nginx did not start")


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()
