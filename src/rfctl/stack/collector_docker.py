"""Evidence from the Docker client: the engine, the project's containers, their logs and their own view."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rfctl.core.redact import redact
from rfctl.stack.child import Capture, run
from rfctl.stack.project import Project, parse_env, pins, secret_faults

SECONDS = 3.0
# Clients before 23.0 take the word "json" for a template and print it; this they all understand.
JSON = "{{json .}}"
CONTAINER_OLLAMA = "http://host.docker.internal:11434"
# Services that an add-on moves to a server of one's own, and images that an add-on brings.
_OUTSIDE = {
    "external-mysql": "mysql",
    "external-redis": "redis",
    "external-elasticsearch": "es01",
    "external-s3": "minio",
}
_ADDED = {"tei": "tei", "tls": "caddy", "ollama-pool": "ollama-pool"}
_CORE_IMAGES = ("ragflow", "es01", "mysql", "minio", "redis")


def collect_docker(
    project: Project, environment: Mapping[str, str], known: Mapping[str, Any]
) -> dict[str, Any]:
    """Nothing of it starts or changes a container. known: the host's facts (`stack.*`)."""

    def docker(*arguments: str, seconds: float = SECONDS) -> Capture:
        found = run(["docker", *arguments], timeout=seconds, environment=environment)
        return Capture(found.state, found.code, redact(found.out), redact(found.err))

    path = shutil.which("docker", path=environment.get("PATH")) or ""
    values: dict[str, Any] = {"docker.path": path}
    if not path:
        return values | {"docker.version": Capture("missing")}
    with ThreadPoolExecutor(2) as pool:
        compose = pool.submit(docker, "compose", "version", "--short")
        values["docker.version"] = docker("version", "--format", JSON)
        values["docker.compose"] = compose.result()
    if known["stack.is-initialised"]:
        values["stack.images"] = _images(known["stack.addons"])
    if not _answers(values["docker.version"]):
        return values
    name = known["stack.project"]
    label = f"label=com.docker.compose.project={name}"
    questions: dict[str, tuple[str, ...]] = {
        "docker.info": ("info", "--format", JSON),
        "docker.contexts": ("context", "ls", "--format", JSON),
        "docker.images": ("images", "--format", JSON),
        "docker.ps": ("ps", "-a", "--filter", label, "--format", JSON),
        "docker.volumes": ("volume", "ls", "--format", JSON),
    }
    with ThreadPoolExecutor(len(questions)) as pool:
        futures = {key: pool.submit(docker, *parts) for key, parts in questions.items()}
        values |= {key: future.result() for key, future in futures.items()}
    values["docker.engine-binary"] = shutil.which("dockerd", path=environment.get("PATH")) is not None
    rows = [json.loads(line) for line in values["docker.ps"].out.splitlines() if line.startswith("{")]
    ids = [str(row["ID"]) for row in rows if row.get("ID")]
    if not ids:
        return values | {"docker.inspect": Capture("done")}
    inspected = run(["docker", "inspect", *ids], timeout=SECONDS, environment=environment)
    return values | _containers(docker, inspected, known)


def _containers(docker: Any, inspected: Capture, known: Mapping[str, Any]) -> dict[str, Any]:
    by_service = {}
    faults: dict[str, str] = {}
    document = json.loads(inspected.out) if inspected.is_ok else []
    for container in document:
        # Environments hold passwords: what is wrong with them is told, they themselves never are.
        environment = parse_env("\n".join(container.get("Config", {}).pop("Env", None) or ()))
        labels = container.get("Config", {}).get("Labels") or {}
        service = labels.get("com.docker.compose.service", "")
        # Upstream calls RAGFlow's service after its device.
        own = "ragflow" if service in ("ragflow-cpu", "ragflow-gpu") else service
        by_service[own] = str(container["Id"])
        if own == "ragflow":
            faults = {
                name: fault for name, fault in secret_faults(environment).items() if name in environment
            }
    values: dict[str, Any] = {
        "docker.inspect": Capture(
            inspected.state, inspected.code, redact(json.dumps(document)), redact(inspected.err)
        ),
        "stack.ports": _own_ports(known["stack.ports"], document),
    }
    if "stack.adopted" in known:
        values["stack.secrets"] = {"mode": -1, "path": "", "faults": faults}
    questions: dict[str, tuple[str, ...]] = {}
    if ragflow := by_service.get("ragflow"):
        addons = known["stack.addons"]
        url = CONTAINER_OLLAMA
        if any(name.startswith("ollama") for name in addons):
            url = "http://ollama-pool:11434" if "ollama-pool" in addons else "http://ollama:11434"
        values["container.ollama-url"] = url
        questions["container.ollama"] = (
            "exec", ragflow, "curl", "-sS", "-m", "2", "--noproxy", "*", f"{url}/api/version",
        )  # fmt: skip
        questions["docker.log.ragflow"] = ("logs", "--tail", "300", ragflow)
        questions["docker.log.ragflow-recent"] = ("logs", "--since", "5m", "--tail", "2000", ragflow)
    if mysql := by_service.get("mysql"):
        questions["docker.log.mysql"] = ("logs", "--tail", "300", mysql)
    if es := by_service.get("es01"):
        script = (
            'curl -sS -m 2 -u "elastic:$ELASTIC_PASSWORD" '
            '"http://127.0.0.1:9200/_all/_settings?filter_path=*.settings.index.blocks"'
        )
        questions["container.es-blocks"] = ("exec", es, "sh", "-c", script)
    if questions:
        with ThreadPoolExecutor(len(questions)) as pool:
            futures = {key: pool.submit(docker, *parts) for key, parts in questions.items()}
            values |= {key: future.result() for key, future in futures.items()}
    return values


def _own_ports(states: Mapping[str, str], document: list[dict[str, Any]]) -> dict[str, str]:
    own = {
        str(entry["HostPort"])
        for container in document
        for entries in (container.get("NetworkSettings", {}).get("Ports") or {}).values()
        for entry in entries or ()
    }
    return {port: "ours" if port in own else state for port, state in states.items()}


def _images(addons: list[str]) -> list[str]:
    images = pins()["images"]
    outside = {_OUTSIDE[addon] for addon in addons if addon in _OUTSIDE}
    names = [name for name in _CORE_IMAGES if name not in outside]
    names += ["ollama"] if {"ollama", "ollama-nvidia", "ollama-rocm"} & set(addons) else []
    names += [image for addon, image in _ADDED.items() if addon in addons]
    return [images[name] for name in names]


def _answers(version: Capture) -> bool:
    try:
        return bool(json.loads(version.out)["Server"])
    except (ValueError, KeyError, TypeError):
        return False
