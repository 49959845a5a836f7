"""Evidence from the Docker client: the engine, the project's containers, their logs and their own view."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rfctl.core.error import RfctlError
from rfctl.stack.check_docker import json_lines
from rfctl.stack.child import Capture, run
from rfctl.stack.compose import Compose
from rfctl.stack.lifecycle import mask, secret_like
from rfctl.stack.ollama_address import container_urls
from rfctl.stack.project import parse_env, public_values, secret_faults

SECONDS = 3.0
MAX_CONFIG = 1 << 20
# Shorter values ("true", "4096") are words of every other text.
MIN_MASKED = 6
# Clients before 23.0 take the word "json" for a template and print it; this they all understand.
JSON = "{{json .}}"
# What the checks read. Arguments hold passwords (Redis'), labels name folders: they stay out.
_INFO = (
    "OperatingSystem",
    "ServerVersion",
    "DockerRootDir",
    "Runtimes",
    "Driver",
    "KernelVersion",
    "MemTotal",
)
_CONTAINER = ("Id", "Name", "RestartCount")
Docker = Callable[..., Capture]


def collect_docker(
    compose: Compose, known: Mapping[str, Any], *, ollama_url: str = "", ragflow_url: str = ""
) -> dict[str, Any]:
    """Nothing of it starts or changes a container. known: the host's facts (`stack.*`, `platform`);
    ollama_url, ragflow_url: as this machine knows them."""
    environment = compose.environment
    secrets = _own_secrets(compose)

    def docker(*arguments: str, seconds: float = SECONDS) -> Capture:
        found = run(["docker", *arguments], timeout=seconds, environment=environment)
        return Capture(found.state, found.code, mask(found.out, secrets), mask(found.err, secrets))

    path = shutil.which("docker", path=environment.get("PATH")) or ""
    values: dict[str, Any] = {"docker.path": path, "docker.proxies": _client_proxies(environment)}
    if not path:
        return values | {"docker.version": Capture("missing")}
    values["docker.real-path"] = os.path.realpath(path)
    with ThreadPoolExecutor(3) as pool:
        version = pool.submit(docker, "compose", "version", "--short")
        config = pool.submit(_config, compose, known)
        values["docker.version"] = docker("version", "--format", JSON)
        values["docker.compose"] = version.result()
        values |= config.result()
    if not _answers(values["docker.version"]):
        return values
    label = f"label=com.docker.compose.project={known['stack.project']}"
    questions: dict[str, tuple[str, ...]] = {
        "docker.info": ("info", "--format", JSON),
        "docker.contexts": ("context", "ls", "--format", JSON),
        "docker.images": ("images", "--digests", "--format", JSON),
        "docker.ps": ("ps", "-a", "--filter", label, "--format", JSON),
        "docker.volumes": ("volume", "ls", "--format", JSON),
    }
    values |= _ask_all(docker, questions)
    values |= _reduce_info(values["docker.info"])
    values["docker.engine-binary"] = shutil.which("dockerd", path=environment.get("PATH")) is not None
    ids = [str(row["ID"]) for row in _rows(values["docker.ps"].out) if row.get("ID")]
    if not ids:
        return values | {"docker.inspect": Capture("done")}
    inspected = run(["docker", "inspect", *ids], timeout=SECONDS, environment=environment)
    document = [row for row in _rows(inspected.out) if isinstance(row.get("Config"), dict)]
    for container in document:
        # `docker` masks them from here on: of an adopted project they are known by its containers only.
        environment_of = parse_env("\n".join(container["Config"].get("Env") or ()))
        secrets |= {
            f"{container.get('Id')} {name}": value
            for name, value in environment_of.items()
            if secret_like(name) and len(value) >= MIN_MASKED and not value.isdigit()
        }
    values |= _containers(document, secrets, known)
    return values | _ask_all(docker, _questions(document, known, ollama_url, ragflow_url, values))


def _ask_all(docker: Docker, questions: Mapping[str, tuple[str, ...]]) -> dict[str, Capture]:
    if not questions:
        return {}
    with ThreadPoolExecutor(len(questions)) as pool:
        futures = {key: pool.submit(docker, *parts) for key, parts in questions.items()}
        return {key: future.result() for key, future in futures.items()}


def _own_secrets(compose: Compose) -> dict[str, str]:
    """By names that `mask` takes for secrets."""
    try:
        settings = compose.project.read()
    except RfctlError:
        return {}
    shown = public_values(settings)
    return {f"SECRET {name}": value for name, value in settings.items() if name not in shown}


def _rows(text: str) -> list[dict[str, Any]]:
    """The objects of `--format json`; another program of that name may print anything."""
    try:
        return [row for row in json_lines(text) if isinstance(row, dict)]
    except ValueError:
        return []


def _config(compose: Compose, known: Mapping[str, Any]) -> dict[str, Any]:
    """Images and the sum of the memory limits (bytes), as Compose understands files, settings and lock."""
    if not known["stack.is-initialised"]:
        return {}
    found = compose.call("config", "--format", "json", timeout=SECONDS)
    if not found.is_ok:
        return {}
    try:
        services = json.loads(found.out)["services"].values()
        return {
            "stack.images": sorted({str(entry["image"]) for entry in services if entry.get("image")}),
            "stack.memory": sum(int(entry.get("mem_limit") or 0) for entry in services),
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _reduce_info(found: Capture) -> dict[str, Any]:
    """The part that the checks read, and the disk that the engine really uses."""
    document = next(iter(_rows(found.out)), None)
    if document is None:
        return {}
    kept = {name: document[name] for name in _INFO if name in document}
    kept["Runtimes"] = dict.fromkeys(kept.get("Runtimes") or ())
    values: dict[str, Any] = {
        "docker.info": Capture(found.state, found.code, json.dumps(kept), found.err),
    }
    root = Path(str(document.get("DockerRootDir") or "/var/lib/docker"))
    # Docker Desktop's folder is inside its own machine, whose disk file grows on this one's.
    if "Desktop" not in str(document.get("OperatingSystem", "")):
        with contextlib.suppress(OSError):
            values["host.disk"] = {"path": str(root), "free": shutil.disk_usage(root).free}
    return values


def _containers(
    document: list[dict[str, Any]], secrets: Mapping[str, str], known: Mapping[str, Any]
) -> dict[str, Any]:
    faults: dict[str, str] = {}
    kept = []
    for container in document:
        if _service(container) == "ragflow":
            environment = parse_env("\n".join(container["Config"].get("Env") or ()))
            faults = {
                name: fault for name, fault in secret_faults(environment).items() if name in environment
            }
        labels = container["Config"].get("Labels") or {}
        kept.append(
            {name: container.get(name) for name in _CONTAINER}
            | {
                "State": _masked_state(container.get("State"), secrets),
                "Config": {
                    "Image": container["Config"].get("Image"),
                    "Labels": {
                        name: value
                        for name, value in labels.items()
                        if name in ("com.docker.compose.project", "com.docker.compose.service")
                    },
                },
                "NetworkSettings": {"Ports": (container.get("NetworkSettings") or {}).get("Ports")},
            }
        )
    values: dict[str, Any] = {
        "docker.inspect": Capture("done", 0, json.dumps(kept)),
        "stack.ports": _own_ports(known["stack.ports"], document),
    }
    if "stack.adopted" in known:
        values["stack.secrets"] = {"mode": -1, "path": "", "faults": faults}
    return values


def _masked_state(state: Any, secrets: Mapping[str, str]) -> Any:
    """What programs said in it, without passwords; Docker's own words stay."""
    if not isinstance(state, dict):
        return state
    return state | {name: _masked(state[name], secrets) for name in ("Error", "Health") if name in state}


def _masked(value: Any, secrets: Mapping[str, str]) -> Any:
    """Text by text: a password may be a word of JSON."""
    if isinstance(value, str):
        return mask(value, secrets)
    if isinstance(value, dict):
        return {name: _masked(item, secrets) for name, item in value.items()}
    return [_masked(item, secrets) for item in value] if isinstance(value, list) else value


def _service(container: Mapping[str, Any]) -> str:
    service = str((container["Config"].get("Labels") or {}).get("com.docker.compose.service", ""))
    # Upstream calls RAGFlow's service after its device.
    return "ragflow" if service in ("ragflow-cpu", "ragflow-gpu") else service


def _questions(
    document: list[dict[str, Any]],
    known: Mapping[str, Any],
    ollama_url: str,
    ragflow_url: str,
    values: dict[str, Any],
) -> dict[str, tuple[str, ...]]:
    """What is asked inside the containers; puts the address of the model server into `values`."""
    by_service = {_service(container): str(container["Id"]) for container in document if container.get("Id")}
    questions: dict[str, tuple[str, ...]] = {}
    if ragflow := by_service.get("ragflow"):
        url = container_urls(ollama_url, known["stack.env"], ragflow_url)[0]
        if "ollama-pool" in known["stack.addons"]:
            url = "http://ollama-pool:11434"
        values["container.ollama-url"] = url
        # Only -v tells why a connection failed: newer curls end with the same words for every reason.
        questions["container.ollama"] = (
            "exec", ragflow, "curl", "-sSv", "-m", "2", "--noproxy", "*", f"{url}/api/version",
        )  # fmt: skip
        questions["docker.log.ragflow"] = ("logs", "--tail", "300", ragflow)
        questions["docker.log.ragflow-recent"] = ("logs", "--since", "5m", "--tail", "2000", ragflow)
        if known["platform"] == "windows":
            questions["container.max-map-count"] = ("exec", ragflow, "cat", "/proc/sys/vm/max_map_count")
    if mysql := by_service.get("mysql"):
        questions["docker.log.mysql"] = ("logs", "--tail", "300", mysql)
    if es := by_service.get("es01"):
        script = (
            'curl -sS -m 2 -u "elastic:$ELASTIC_PASSWORD" '
            '"http://127.0.0.1:9200/_all/_settings?filter_path=*.settings.index.blocks"'
        )
        questions["container.es-blocks"] = ("exec", es, "sh", "-c", script)
    return questions


def _own_ports(states: Mapping[str, str], document: list[dict[str, Any]]) -> dict[str, str]:
    own = {
        str(entry["HostPort"])
        for container in document
        for entries in ((container.get("NetworkSettings") or {}).get("Ports") or {}).values()
        for entry in entries or ()
    }
    return {port: "ours" if port in own else state for port, state in states.items()}


def _client_proxies(environment: Mapping[str, str]) -> dict[str, Any]:
    """Proxies that the client puts into new containers (its config.json): their names, and what is exempt."""
    folder = environment.get("DOCKER_CONFIG") or str(
        Path(environment.get("HOME", "~")).expanduser() / ".docker"
    )
    try:
        with (Path(folder) / "config.json").open("rb") as file:
            entry = json.loads(file.read(MAX_CONFIG))["proxies"]["default"]
        return {
            "names": sorted(str(name) for name in entry if name != "noProxy" and entry[name]),
            "exempt": str(entry.get("noProxy", "")),
        }
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return {"names": [], "exempt": ""}


def _answers(version: Capture) -> bool:
    try:
        return bool(json.loads(version.out)["Server"])
    except (ValueError, KeyError, TypeError):
        return False
