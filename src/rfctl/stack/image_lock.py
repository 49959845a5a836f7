"""Images held by name or digest: compose files beside the settings that win over the shipped ones.

Executors run RAGFlow's image (compose.executors.yaml). Theirs is held in a file of its own, because a service
that only a lock file names would be started by Compose without ever having been asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rfctl.core.file import write_atomic
from rfctl.stack.project import Project

_SOURCE, EXECUTOR = "ragflow", "executor"


def lock_files(project: Project, *, executors: bool) -> list[Path]:
    """The lock files that are there. executors: whether the compose files define executors."""
    wanted = [project.lock_file, *([project.executor_lock_file] if executors else [])]
    return [path for path in wanted if path.is_file()]


def write_lock(project: Project, images: Mapping[str, str]) -> dict[str, str]:
    """Hold `images` (by service), and executors to RAGFlow's; all that is held now. Raises OSError."""
    remove_lock(project)
    held = {name: image for name, image in images.items() if name != EXECUTOR}
    if image := images.get(EXECUTOR) or images.get(_SOURCE):
        _write(project.executor_lock_file, {EXECUTOR: image})
        _write(project.lock_file, held)
        return {**held, EXECUTOR: image}
    _write(project.lock_file, held)
    return held


def remove_lock(project: Project) -> bool:
    """Forget what is held. False when nothing was. Raises OSError."""
    found = lock_files(project, executors=True)
    for path in found:
        path.unlink(missing_ok=True)
    return bool(found)


def _write(path: Path, images: Mapping[str, str]) -> None:
    """JSON is YAML. Raises OSError."""
    document = {"services": {name: {"image": image} for name, image in sorted(images.items())}}
    write_atomic(path, (json.dumps(document, indent=1) + "\n").encode())
