"""A RAGFlow that somebody runs from upstream's own compose files: looked at, never started or stopped.

Compose labels tell its containers (label `com.docker.compose.project`; upstream's is the name of its folder,
"docker"). Nothing of it is ever written to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfctl.core.error import RfctlError, UsageError
from rfctl.core.file import write_atomic
from rfctl.stack.check_docker import json_lines, service_name
from rfctl.stack.image import inspect_project, tag
from rfctl.stack.project import Project
from rfctl.stack.volume import docker

MAX_RECORD = 1 << 16
# Ports inside RAGFlow's container (v0.27 docker-compose.yml): nginx, and the API behind it.
_WEB, _API = "80/tcp", "9380/tcp"


@dataclass(frozen=True)
class Adopted:
    """name: Compose's project; service, image: of RAGFlow itself; *_url: "" for a port that is not published;
    folder: where its compose file is."""

    name: str
    service: str
    image: str
    version: str
    web_url: str
    api_url: str
    folder: str


def adopted_name(project: Project) -> str:
    """The project that was adopted, "" when none was."""
    return read_adopted(project).get("project", "")


def read_adopted(project: Project) -> dict[str, str]:
    """What was remembered: project, web_url and api_url as they were then; {} when nothing was adopted."""
    try:
        with _record(project).open("rb") as file:
            document = json.loads(file.read(MAX_RECORD))
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in document.items()} if isinstance(document, dict) else {}


def adopt(project: Project, environment: Mapping[str, str], name: str = "") -> Adopted:
    """Remember the project `name`, or the only one that has a RAGFlow container.

    Raises UsageError `stack.adopt-own`, `stack.adopt-none`, `stack.adopt-many`; RfctlError.
    """
    if project.is_initialised:
        raise UsageError("stack.adopt-own", path=project.env_file)
    found = find_ragflow(environment)
    matching = [entry for entry in found if not name or entry.name == name]
    if not matching:
        known = ", ".join(entry.name for entry in found) or "-"
        raise UsageError("stack.adopt-none", name=name or "-", known=known)
    if len(matching) > 1:
        raise UsageError("stack.adopt-many", known=", ".join(entry.name for entry in matching))
    taken = matching[0]
    text = json.dumps({"project": taken.name, "web_url": taken.web_url, "api_url": taken.api_url}) + "\n"
    try:
        write_atomic(_record(project), text.encode(), mode=0o600)
    except OSError as error:
        raise RfctlError("stack.unwritable", path=_record(project), detail=str(error)) from error
    return taken


def forget(project: Project) -> bool:
    """False when nothing was adopted. Raises RfctlError `stack.unwritable`."""
    try:
        _record(project).unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RfctlError("stack.unwritable", path=_record(project), detail=str(error)) from error
    return True


def find_ragflow(environment: Mapping[str, str]) -> list[Adopted]:
    """One entry for each Compose project with a RAGFlow container, by name. Raises RfctlError."""
    listed = docker(environment, "ps", "-a", "--filter", "label=com.docker.compose.project",
                    "--format", "{{json .}}")  # fmt: skip
    names = set()
    for row in json_lines(listed):
        labels = dict(part.partition("=")[::2] for part in str(row.get("Labels", "")).split(","))
        if is_ragflow(labels.get("com.docker.compose.service", ""), str(row.get("Image", ""))):
            names.add(labels.get("com.docker.compose.project", ""))
    return [look(name, environment) for name in sorted(names - {""})]


def look(name: str, environment: Mapping[str, str]) -> Adopted:
    """RAGFlow's own container in a project. Raises UsageError `stack.adopt-none`, RfctlError."""
    for container in inspect_project(name, environment):
        service, image = service_name(container), str(container["Config"].get("Image", ""))
        if is_ragflow(service, image):
            labels = container["Config"]["Labels"]
            folder = str(labels.get("com.docker.compose.project.working_dir", ""))
            web, api = _address(container, _WEB), _address(container, _API)
            return Adopted(name, service, image, tag(image), web, api, folder)
    raise UsageError("stack.adopt-none", name=name, known="-")


def is_ragflow(service: str, image: str) -> bool:
    """Upstream's services are ragflow-cpu and ragflow-gpu (ragflow before 0.23)."""
    return service in ("ragflow", "ragflow-cpu", "ragflow-gpu") or "infiniflow/ragflow:" in image


def _address(container: Mapping[str, Any], port: str) -> str:
    entries = (container.get("NetworkSettings", {}).get("Ports") or {}).get(port) or ()
    # Of a stopped container only the wish is known.
    entries = entries or (container.get("HostConfig", {}).get("PortBindings") or {}).get(port) or ()
    for entry in entries:
        host = entry.get("HostIp") or "127.0.0.1"
        host = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104
        return f"http://{host}:{entry['HostPort']}"
    return ""


def _record(project: Project) -> Path:
    return project.directory / "adopted.json"
