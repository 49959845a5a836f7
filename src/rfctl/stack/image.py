"""Which images the stack would use, which it runs, and whether the step between them is an upgrade.

The files of a newer rfctl name newer images; data that an image has migrated does not go back. So the images
of the last successful start are kept beside the settings, and only `upgrade` takes a step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rfctl.core.file import write_atomic
from rfctl.stack.check_docker import json_lines, service_name
from rfctl.stack.child import run
from rfctl.stack.compose import QUICK_SECONDS, Compose, explain
from rfctl.stack.project import Project

MAX_RECORD = 1 << 20


@dataclass(frozen=True)
class Change:
    """before, after: image names; direction: "up", "down" or "other" (versions that cannot be compared)."""

    service: str
    before: str
    after: str
    direction: str


def wanted_images(compose: Compose) -> dict[str, str]:
    """Image by service as `up` would use them (needs no engine). Raises what `Compose.ask` raises."""
    document = json.loads(compose.ask("config", "--format", "json"))
    return {name: str(entry.get("image", "")) for name, entry in document["services"].items()}


def running_images(compose: Compose) -> dict[str, str]:
    """Image by service of the containers, else of the last successful start, else {}.

    Raises RfctlError when the engine does not answer.
    """
    containers = inspect_project(compose.name, compose.environment)
    found = {service_name(entry): str(entry["Config"].get("Image", "")) for entry in containers}
    return found or recorded_images(compose.project)


def inspect_project(name: str, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """`docker inspect` of every container of a Compose project, running or not. Raises RfctlError."""
    label = f"label=com.docker.compose.project={name}"
    listed = run(["docker", "ps", "-aq", "--filter", label], timeout=QUICK_SECONDS, environment=environment)
    if not listed.is_ok:
        raise explain(listed, timeout=QUICK_SECONDS)
    ids = listed.out.split()
    if not ids:
        return []
    found = run(["docker", "inspect", *ids], timeout=QUICK_SECONDS, environment=environment)
    # One that ended in between makes the exit status 1; the others are still told.
    if not found.out.strip():
        raise explain(found, timeout=QUICK_SECONDS)
    return [
        entry
        for entry in json_lines(found.out)
        if "com.docker.compose.service" in (entry.get("Config", {}).get("Labels") or {})
    ]


def recorded_images(project: Project) -> dict[str, str]:
    """The images of the last successful start; {} when there was none or its record is unreadable."""
    try:
        with project.images_file.open("rb") as file:
            document = json.loads(file.read(MAX_RECORD))
    except (OSError, ValueError):
        return {}
    images = document.get("images") if isinstance(document, dict) else None
    return {str(name): str(image) for name, image in images.items()} if isinstance(images, dict) else {}


def record_images(project: Project, images: Mapping[str, str]) -> None:
    """Remember the images of a start. Raises OSError."""
    text = json.dumps({"images": dict(sorted(images.items()))}, indent=1) + "\n"
    write_atomic(project.images_file, text.encode(), mode=0o600)


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    """The services that would run another version; a mirror with the same tag is no change."""
    found = []
    for service in sorted(set(before) & set(after)):
        old, new = tag(before[service]), tag(after[service])
        if not old or not new or old == new:
            continue
        one, other = version(old), version(new)
        direction = "other" if not one or not other else "up" if other > one else "down"
        found.append(Change(service, before[service], after[service], direction))
    return tuple(found)


def tag(image: str) -> str:
    """ "v0.27.0" of "host:5000/name:v0.27.0@sha256:..."; "" when there is none."""
    name = image.partition("@")[0].rpartition("/")[2]
    return name.partition(":")[2]


def version(text: str) -> tuple[int, ...]:
    """Numbers of a tag: (0, 27, 0) of "v0.27.0", (2026, 8, 6, 0, 0, 0) of MinIO's dates; () when none."""
    match = re.search(r"\d+(?:[.\-T]\d+)*", text)
    return tuple(int(part) for part in re.split(r"[.\-T]", match.group())) if match else ()
