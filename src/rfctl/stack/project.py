"""The stack's folder: settings file with generated secrets, chosen add-ons, and the compose files it uses.

Secrets are hexadecimal because RAGFlow's template renderer breaks on quotes and Compose interpolates `$`.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rfctl.core.data import data_folder
from rfctl.core.error import RefusedError, RfctlError, UsageError
from rfctl.core.file import write_atomic

SECRETS: Mapping[str, int] = {
    "MYSQL_PASSWORD": 24,
    "MINIO_PASSWORD": 24,
    "REDIS_PASSWORD": 24,
    "ELASTIC_PASSWORD": 24,
    "RAGFLOW_SECRET_KEY": 32,
    "RFCTL_ADMIN_PASSWORD": 12,
}
# Upstream's own passwords (RAGFlow v0.27 docker/.env and helm/values.yaml) and RAGFlow's first account.
_DEFAULTS = frozenset({"infini_rag_flow", "infini_rag_flow_helm", "admin", "changeme", "password"})
MIN_SECRET_LENGTH = 16
# The smallest model inside the image (1.2 GB of memory).
TEI_MODEL = "BAAI/bge-small-en-v1.5"
ADDONS: Mapping[str, tuple[str, ...]] = {
    "ollama": ("compose.ollama.yaml",),
    "ollama-nvidia": ("compose.ollama.yaml", "compose.ollama.nvidia.yaml"),
    "ollama-rocm": ("compose.ollama.yaml", "compose.ollama.rocm.yaml"),
    "tei": ("compose.tei.yaml",),
    "gpu": ("compose.gpu.yaml",),
    "executors": ("compose.executors.yaml",),
    "tls": ("compose.tls.yaml",),
    "external-mysql": ("compose.external-mysql.yaml",),
    "external-redis": ("compose.external-redis.yaml",),
    "external-elasticsearch": ("compose.external-elasticsearch.yaml",),
    "external-s3": ("compose.external-s3.yaml",),
    "ollama-pool": ("compose.ollama-pool.yaml",),
    "debug-ports": ("compose.debug-ports.yaml",),
}
# What only the owner knows: `init` leaves these lines empty, `up` refuses until they are filled.
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "tls": ("RFCTL_TLS_BIND", "RFCTL_TLS_NAME"),
    "external-mysql": ("MYSQL_HOST", "MYSQL_USER", "MYSQL_PASSWORD"),
    "external-redis": ("REDIS_HOST", "REDIS_PASSWORD"),
    "external-elasticsearch": ("ES_HOST", "ES_USER", "ELASTIC_PASSWORD"),
    "external-s3": ("S3_ENDPOINT", "S3_BUCKET", "S3_ACCESS_KEY", "S3_SECRET_KEY"),
    "ollama-pool": ("RFCTL_OLLAMA_POOL",),
}
SIZES = ("small", "standard", "large")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_LINE = re.compile(r"^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)$")


@dataclass(frozen=True)
class Project:
    """directory: where `stack.env` is. Nothing here starts a program."""

    directory: Path

    @property
    def env_file(self) -> Path:
        return self.directory / "stack.env"

    @property
    def lock_file(self) -> Path:
        """Images by name or digest, used as the last compose file where it exists."""
        return self.directory / "compose.lock.yaml"

    @property
    def executor_lock_file(self) -> Path:
        """The image of executors, used only where there are some."""
        return self.directory / "compose.lock.executors.yaml"

    @property
    def images_file(self) -> Path:
        """The images of the last successful start."""
        return self.directory / "images.json"

    @property
    def claim_file(self) -> Path:
        """There once the volumes of the project are this home's."""
        return self.directory / "volumes.own"

    @property
    def unfinished_file(self) -> Path:
        """There while a restore is under way: the volumes hold half of the data."""
        return self.directory / "restore.unfinished"

    @property
    def is_initialised(self) -> bool:
        return self.env_file.is_file()

    def read(self) -> dict[str, str]:
        """All settings, secrets too. Raises UsageError `stack.not-initialised` or `stack.env-broken`."""
        try:
            return parse_env(self.env_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError("stack.not-initialised", path=self.env_file) from None
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError("stack.env-broken", path=self.env_file, detail=str(error)) from error

    def addons(self) -> tuple[str, ...]:
        """The add-ons chosen at `init`. Raises UsageError."""
        return tuple(name for name in self.read().get("RFCTL_ADDONS", "").split(",") if name in ADDONS)

    def compose_files(self, extra: tuple[str, ...] = ()) -> list[Path]:
        """compose.yaml and the files of the add-ons, in order, each once. Raises UsageError."""
        folder = data_folder("docker")
        names = ["compose.yaml"]
        addons = dict.fromkeys((*self.addons(), *extra))
        # The executors extend ragflow as compose.yaml has it; what others add to ragflow comes after them.
        for addon in sorted(addons, key=lambda name: name != "executors"):
            names += [name for name in ADDONS[addon] if name not in names]
            if "executors" in addons and addon == "external-s3":
                names.append("compose.external-s3.executors.yaml")
        return [folder / name for name in names]


@dataclass(frozen=True)
class Made:
    """What `init` did. created: False when the file was there; missing: settings that the chosen add-ons need
    and that are still empty; changed: settings that are others now in a file that was there."""

    path: Path
    created: bool
    size: str
    addons: tuple[str, ...]
    web_port: int
    admin_email: str
    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


@cache
def pins() -> Mapping[str, Any]:
    """`docker/pins.json`: image names and memory limits by size."""
    table: dict[str, Any] = json.loads((data_folder("docker") / "pins.json").read_text(encoding="utf-8"))
    return table


def choose_size(memory: int) -> str:
    """The largest size of `pins.json` that fits a machine with `memory` bytes; at least "small"."""
    fitting = [name for name in SIZES if memory >= pins()["sizes"][name]["memory_gb"] * 10**9]
    return fitting[-1] if fitting else "small"


def initialise(
    project: Project,
    *,
    size: str,
    addons: tuple[str, ...] = (),
    name: str = "rfctl",
    web_port: int = 8080,
    api_port: int = 9380,
    time_zone: str = "UTC",
) -> Made:
    """Write the settings file with fresh secrets, mode 0600; one that is there is never replaced.

    Raises UsageError `stack.name-invalid`, `stack.addon-unknown`; RefusedError `stack.kept`; RfctlError
    `stack.unwritable`.
    """
    if not _NAME.fullmatch(name):
        raise UsageError("stack.name-invalid", name=name)
    for addon in addons:
        if addon not in ADDONS:
            raise UsageError("stack.addon-unknown", name=addon, known=", ".join(ADDONS))
    if project.is_initialised:
        raise RefusedError("stack.kept", path=project.env_file)
    values = {
        "RFCTL_PROJECT": name,
        "RFCTL_SIZE": size,
        "RFCTL_ADDONS": ",".join(addons),
        "COMPOSE_PROFILES": "elasticsearch",
        "DOC_ENGINE": "elasticsearch",
        "RFCTL_BIND": "127.0.0.1",
        "RFCTL_WEB_PORT": str(web_port),
        "RFCTL_API_PORT": str(api_port),
        "TZ": time_zone,
        "RFCTL_ADMIN_EMAIL": "admin@rfctl.local",
        **pins()["sizes"][size]["env"],
        **{variable: secrets.token_hex(count) for variable, count in SECRETS.items()},
    }
    values |= addon_values(addons)
    text = "".join(f"{key}={value}\n" for key, value in values.items())
    try:
        project.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Data that was made with a settings file that is gone has other passwords: it is not this home's.
        for record in (project.claim_file, project.images_file):
            record.unlink(missing_ok=True)
        write_atomic(project.env_file, text.encode(), mode=0o600)
    except OSError as error:
        raise RfctlError("stack.unwritable", path=project.env_file, detail=str(error)) from error
    email = values["RFCTL_ADMIN_EMAIL"]
    return Made(project.env_file, True, size, addons, web_port, email, missing_values(values))


def addon_values(addons: Sequence[str]) -> dict[str, str]:
    """Settings that come with add-ons; "" for those that only the owner knows."""
    values = {variable: "" for addon in addons for variable in REQUIRED.get(addon, ())}
    if "tei" in addons:
        # RAGFlow takes the embedding server when this word is in its profiles (v0.27 docker/README).
        values |= {"COMPOSE_PROFILES": "elasticsearch,tei-cpu", "TEI_MODEL": TEI_MODEL}
    return values


def parse_env(text: str) -> dict[str, str]:
    """Variables of an env file: comments and blank lines are left out, matching quotes taken off."""
    values = {}
    for line in text.lstrip("\ufeff").splitlines():
        if line.lstrip().startswith("#") or not (match := _LINE.match(line)):
            continue
        value = match.group(2).strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        values[match.group(1)] = value
    return values


def set_values(project: Project, changes: Mapping[str, str]) -> None:
    """Change lines of the settings file, or add them; everything else in it stays. Raises OSError."""
    pending = dict(changes)
    lines = []
    for line in project.env_file.read_text(encoding="utf-8").splitlines():
        match = _LINE.match(line)
        name = match.group(1) if match else ""
        if name not in changes:
            lines.append(line)
        elif name in pending:
            lines.append(f"{name}={pending.pop(name)}")
    lines += [f"{name}={value}" for name, value in pending.items()]
    write_atomic(project.env_file, ("\n".join(lines) + "\n").encode(), mode=0o600)


def missing_values(values: Mapping[str, str]) -> tuple[str, ...]:
    """Settings that the chosen add-ons need and that are empty."""
    needed = [name for addon in values.get("RFCTL_ADDONS", "").split(",") for name in REQUIRED.get(addon, ())]
    return tuple(dict.fromkeys(name for name in needed if not values.get(name)))


def secret_faults(values: Mapping[str, str]) -> dict[str, str]:
    """What is wrong with the secrets: {variable: "missing" | "default" | "short" | "charset"}.

    Of a server of one's own the length is not ours to judge.
    """
    foreign = {
        name for addon in values.get("RFCTL_ADDONS", "").split(",") for name in REQUIRED.get(addon, ())
    }
    faults = {}
    for variable in SECRETS:
        value = values.get(variable, "")
        if not value:
            faults[variable] = "missing"
        elif value.lower() in _DEFAULTS:
            faults[variable] = "default"
        elif not re.fullmatch(r"[A-Za-z0-9_-]+", value):
            faults[variable] = "charset"
        elif len(value) < MIN_SECRET_LENGTH and variable not in foreign:
            faults[variable] = "short"
    return faults


def public_values(values: Mapping[str, str]) -> dict[str, str]:
    """The settings without the secrets."""
    return {
        name: value
        for name, value in values.items()
        if name not in SECRETS and not re.search(r"PASSWORD|SECRET|TOKEN|KEY", name)
    }


def restrict(path: Path) -> None:
    """Make a file readable by its owner only, where the platform has such modes. Raises OSError."""
    if os.name != "nt":
        path.chmod(0o600)
