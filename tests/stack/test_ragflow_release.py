"""deploy/k8s and docker/ are held to the facts of RAGFlow's release in ragflow_release.json, and the tool
that reads these facts is held to a chart of a few lines."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from rfctl.core.data import data_folder
from rfctl.stack.project import pins

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "read_ragflow_release.py"
K8S = data_folder("deploy") / "k8s"
DOCKER = data_folder("docker")
FACTS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "ragflow_release.json").read_text(encoding="utf-8")
)
CHART, COMPOSE = FACTS["chart"], FACTS["docker"]


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("read_ragflow_release", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def values(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((K8S / name).read_text(encoding="utf-8"))
    return found


def leaves(found: dict[str, Any], prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, value in found.items():
        path = f"{prefix}{name}"
        # What stands below these is not the chart's: Kubernetes' own fields, RAGFlow's own file.
        is_open = path in CHART["values"] and not any(
            known.startswith(f"{path}.") for known in CHART["values"]
        )
        names += leaves(value, f"{path}.") if isinstance(value, dict) and not is_open else [path]
    return names


def test_the_facts_are_of_the_pinned_release() -> None:
    assert FACTS["source"]["release"] == pins()["ragflow"]["pinned"] == CHART["tag"]
    assert COMPOSE["images"]["ragflow-cpu"] == pins()["images"]["ragflow"]


@pytest.mark.parametrize("name", ["values.yaml", "values-external.yaml"])
def test_every_value_of_ours_is_one_of_the_chart(name: str) -> None:
    ours = values(name)
    env = ours.pop("env")
    # `resources` has requests in the values of one part only; the templates take the whole field.
    unknown = [
        path for path in leaves(ours) if path not in CHART["values"] and ".deployment.resources." not in path
    ]
    assert unknown == []
    assert [one for one in env if one not in CHART["env"] and one not in COMPOSE["env"]] == []


@pytest.mark.parametrize("case", ["own", "external"])
def test_every_variable_of_ours_reaches_ragflow(case: str) -> None:
    tool, rendered = load_tool(), CHART["rendered"][case]
    pod = rendered["pods"]["Deployment/ragflow"]
    (secret,) = pod["env_from"]
    assert [one for one in tool.values_of(case, K8S)["env"] if one not in rendered["secrets"][secret]] == []
    assert pod["image"] == pins()["images"]["ragflow"]
    assert "--enable-adminserver" not in pod["args"]
    assert "ragflow-admin" not in rendered["services"]
    assert "API_PROXY_SCHEME" in rendered["secrets"][secret]


def test_services_of_somebody_else_turn_the_own_ones_off() -> None:
    own, external = CHART["rendered"]["own"], CHART["rendered"]["external"]
    assert {"ragflow-mysql", "ragflow-minio", "ragflow-redis"} <= set(own["objects"]["StatefulSet"])
    # The chart has no switch for Elasticsearch; the README stops what is left of it.
    assert external["objects"]["StatefulSet"] == ["ragflow-es"]
    assert "elasticsearch.enabled" not in CHART["values"]
    for page in ("README.md", "README.zh-CN.md"):
        assert "scale statefulset/ragflow-es --replicas=0" in (K8S / page).read_text(encoding="utf-8")
    assert (
        "/ragflow/conf/local.service_conf.yaml" in external["pods"]["Deployment/ragflow"]["mounts"]
        and "/ragflow/conf/local.service_conf.yaml" not in own["pods"]["Deployment/ragflow"]["mounts"]
    )


def test_the_executors_and_the_policies_fit_what_the_chart_renders() -> None:
    pytest.importorskip("helm_python.chart", reason="the package helm-python-sdk is for development only")
    tool, rendered = load_tool(), CHART["rendered"]["own"]
    objects = tool.render(K8S / "executors", values("executors-external.yaml"))
    pod = next(one for one in objects if one["kind"] == "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["envFrom"][0]["secretRef"]["name"] in rendered["secrets"]
    assert {flag.partition("=")[0] for flag in container["args"]} <= set(COMPOSE["flags"])
    mapped = [one["configMap"]["name"] for one in pod["volumes"] if "configMap" in one]
    assert mapped and set(mapped) <= set(CHART["rendered"]["external"]["objects"]["ConfigMap"])
    file = next(one for one in container["volumeMounts"] if one["name"] == "service-conf")["mountPath"]
    assert file in CHART["rendered"]["external"]["pods"]["Deployment/ragflow"]["mounts"]

    policies = {
        one["metadata"]["name"].rsplit("-", 1)[-1]: one["spec"]
        for one in objects
        if one["kind"] == "NetworkPolicy"
    }
    pods = rendered["pods"]

    def chosen(policy: dict[str, Any]) -> set[str]:
        wanted = policy["podSelector"]["matchLabels"].items()
        return {name for name, one in pods.items() if wanted <= one["labels"].items()}

    assert chosen(policies["release"]) == set(pods)
    assert chosen(policies["page"]) == {"Deployment/ragflow"}
    ports = {one["port"] for rule in policies["page"]["ingress"] for one in rule["ports"]}
    assert ports == set(pods["Deployment/ragflow"]["ports"])
    reached = [
        peer["podSelector"]["matchLabels"].items()
        for rule in policies["executor"]["egress"]
        for peer in rule["to"]
        if set(peer) == {"podSelector"}
    ]
    assert all(any(wanted <= one["labels"].items() for wanted in reached) for one in pods.values())
    open_ports = {
        port["port"]
        for rule in policies["executor"]["egress"]
        for port in rule.get("ports", [])
        if "ipBlock" in rule["to"][0]
    }
    outside = values("values-external.yaml")
    urls = " ".join(one.get("endpoint_url", "") or one["hosts"] for one in _sections(outside))
    used = {int(outside["env"]["MYSQL_PORT"]), *COMPOSE["ports"]["redis"]}
    used |= {int(port) for port in re.findall(r":(\d+)", urls)} | ({443} if "https" in urls else set())
    assert used <= open_ports


def _sections(external: dict[str, Any]) -> list[dict[str, Any]]:
    return list(external["ragflow"]["service_conf"].values())


def test_the_services_that_the_readme_names_are_there() -> None:
    services = CHART["rendered"]["own"]["services"]
    for page in ("README.md", "README.zh-CN.md"):
        text = (K8S / page).read_text(encoding="utf-8")
        named = re.findall(r"port-forward service/(\S+) \d+:(\d+)", text)
        assert len(named) == 2
        for name, port in named:
            assert int(port) in services[name]["ports"]


def compose() -> dict[str, dict[str, Any]]:
    class Loader(yaml.SafeLoader):
        """Compose's own tags say how files are laid over one another; their value is what counts here."""

    def plain(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> object:
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node)
        return loader.construct_mapping(node) if isinstance(node, yaml.MappingNode) else None

    Loader.add_multi_constructor("!", plain)
    return {
        path.name: yaml.load(path.read_text(encoding="utf-8"), Loader)
        for path in sorted(DOCKER.glob("compose*.yaml"))
    }


def test_the_images_are_those_of_the_release() -> None:
    images = COMPOSE["images"]
    ours = pins()["images"]
    pairs = {"es01": "es01", "mysql": "mysql", "minio": "minio", "redis": "redis", "infinity": "infinity"}
    pairs |= {"tei": "tei-cpu", "ragflow": "ragflow-cpu"}
    assert {name: ours[name] for name in pairs} == {name: images[one] for name, one in pairs.items()}


def test_every_variable_and_flag_of_compose_is_known_to_the_release() -> None:
    seen = 0
    for name, document in compose().items():
        for service, spec in (document.get("services") or {}).items():
            if service not in {"ragflow", "executor"}:
                continue
            env = spec.get("environment") or {}
            unknown = [one for one in env if one not in COMPOSE["env"]]
            assert unknown == [], (name, unknown)
            flags = {one.partition("=")[0] for one in spec.get("command") or []}
            assert flags <= set(COMPOSE["flags"]), name
            seen += len(env) + len(flags)
    assert seen > 30


def test_the_published_ports_are_ragflows_own() -> None:
    published = compose()["compose.yaml"]["services"]["ragflow"]["ports"]
    assert {int(one.rsplit(":", 1)[1]) for one in published} == {80, 9380}
    assert {80, 9380} <= set(COMPOSE["ports"]["ragflow-cpu"])


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A release with a chart of a few lines."""
    docker, chart = tmp_path / "docker", tmp_path / "helm"
    (chart / "templates").mkdir(parents=True)
    docker.mkdir()
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: ragflow\nversion: 1.0.0\n")
    (chart / "values.yaml").write_text("env: {A: b}\nragflow: {image: {tag: v9.9.9}, service: {type: x}}\n")
    (chart / "templates" / "all.yaml").write_text(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: '{{ .Release.Name }}-env'}\nstringData:\n"
        "{{- range $name, $value := .Values.env }}\n  {{ $name }}: {{ quote $value }}\n{{- end }}\n---\n"
        "apiVersion: v1\nkind: Service\nmetadata: {name: '{{ .Release.Name }}'}\n"
        "spec: {selector: {a: b}, ports: [{port: 80}]}\n"
    )
    (docker / "entrypoint.sh").write_text('case $arg in\n  --workers=*)\n  --fast)\n    "$HOST_NAME"\n')
    (docker / "service_conf.yaml.template").write_text("host: '${ES_HOST:-es01}:9200'\n")
    (docker / ".env").write_text("RAGFLOW_IMAGE=infiniflow/ragflow:v9.9.9\n# HF_ENDPOINT=x\n")
    (docker / "docker-compose-base.yml").write_text(
        "services: {redis: {image: 'valkey/valkey:9', ports: ['${P}:6379']}}\n"
    )
    (docker / "docker-compose.yml").write_text("services: {ragflow-cpu: {image: '${RAGFLOW_IMAGE}'}}\n")
    return tmp_path


def test_the_tool_reads_a_checkout_and_says_what_differs(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("helm_python.chart", reason="the package helm-python-sdk is for development only")
    tool = load_tool()
    found = tool.read(checkout)
    assert found["docker"] == {
        "flags": ["--fast", "--workers"],
        "env": ["ES_HOST", "HF_ENDPOINT", "HOST_NAME", "RAGFLOW_IMAGE"],
        "images": {"ragflow-cpu": "infiniflow/ragflow:v9.9.9", "redis": "valkey/valkey:9"},
        "ports": {"redis": [6379]},
    }
    assert found["chart"]["tag"] == "v9.9.9"
    assert found["chart"]["rendered"]["own"]["services"] == {
        "ragflow": {"ports": [80], "selector": {"a": "b"}}
    }
    assert "API_PROXY_SCHEME" in found["chart"]["rendered"]["own"]["secrets"]["ragflow-env"]

    facts = tmp_path / "facts.json"
    facts.write_text(json.dumps({"source": {"release": "x"}, **found}))
    monkeypatch.setattr(tool, "FACTS", facts)
    assert tool.main([str(checkout)]) == 0
    assert capsys.readouterr().out == "nothing has changed\n"
    (checkout / "docker" / "docker-compose-base.yml").write_text(
        "services: {redis: {image: 'valkey/valkey:8'}}"
    )
    assert tool.main([str(checkout)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "/docker/images/redis: 'valkey/valkey:9' -> 'valkey/valkey:8'",
        "/docker/ports/redis: [6379] -> None",
    ]
    assert tool.main([str(checkout), "--write"]) == 0
    assert json.loads(facts.read_text())["source"] == {"release": "x"}
    assert tool.main([str(checkout)]) == 0


def test_the_facts_are_those_of_a_real_checkout() -> None:
    named = os.environ.get("RFCTL_RAGFLOW_CHECKOUT")
    if not named:
        pytest.skip("RFCTL_RAGFLOW_CHECKOUT names no checkout of RAGFlow")
    pytest.importorskip("helm_python.chart", reason="the package helm-python-sdk is for development only")
    tool = load_tool()
    found = tool.read(Path(named))
    assert list(tool.compare({name: FACTS[name] for name in found}, found)) == []
    validator = pytest.importorskip("kubernetes_validate", reason="for development only")
    for case in tool.CASES:
        for one in tool.render(Path(named) / "helm", tool.values_of(case)):
            validator.validate(one, "1.37", strict=True)
