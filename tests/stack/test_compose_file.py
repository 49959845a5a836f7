"""The shipped compose files keep to the rules of the project, add-ons too; Compose itself accepts them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker_engine import find_compose

from rfctl.core.data import data_folder
from rfctl.stack.project import ADDONS, SECRETS, parse_env, pins

FOLDER = data_folder("docker")
FILES = sorted(path.name for path in FOLDER.glob("compose*.yaml"))


class Loader(yaml.SafeLoader):
    """Compose's own tags keep their value."""


Loader.add_constructor("!override", lambda loader, node: _construct(loader, node))
Loader.add_constructor("!reset", lambda loader, node: _construct(loader, node))


def _construct(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else None


def load(name: str) -> dict[str, Any]:
    document = yaml.load((FOLDER / name).read_text(encoding="utf-8"), Loader)
    assert isinstance(document, dict)
    return document


def services() -> list[tuple[str, str, dict[str, Any]]]:
    return [(file, name, entry) for file in FILES for name, entry in load(file)["services"].items()]


def test_every_addon_has_its_files_and_every_file_an_addon() -> None:
    used = {name for files in ADDONS.values() for name in files} | {"compose.yaml"}
    assert sorted(used) == FILES


def test_every_service_has_a_health_check_a_memory_limit_and_bounded_logs() -> None:
    for file, name, entry in services():
        if "image" not in entry or file in ("compose.ollama.rocm.yaml",):
            continue
        assert entry["healthcheck"]["test"], (file, name)
        assert entry["mem_limit"], (file, name)
        assert entry["logging"]["options"]["max-size"], (file, name)
        assert entry["restart"] == "unless-stopped", (file, name)
        assert entry["security_opt"] == ["no-new-privileges:true"], (file, name)


def test_ports_are_on_loopback_unless_somebody_names_an_address() -> None:
    ports = [(file, port) for file, _, entry in services() for port in entry.get("ports", [])]
    assert len([port for file, port in ports if file == "compose.yaml"]) == 2
    for file, port in ports:
        allowed = r"(127\.0\.0\.1|\$\{RFCTL_BIND:-127\.0\.0\.1\}|\$\{RFCTL_TLS_BIND:\?[^}]+\}):"
        assert re.match(allowed, port), (file, port)


def test_nothing_is_privileged_and_nothing_of_the_host_is_mounted() -> None:
    for file, name, entry in services():
        assert not {"privileged", "network_mode", "pid", "cap_add"} & set(entry), (file, name)
        for volume in entry.get("volumes", []):
            assert re.match(r"[a-z0-9_]+:/", volume), (file, name, volume)


def test_images_are_pinned_and_are_the_ones_of_the_pins() -> None:
    pinned = pins()["images"]
    for file, name, entry in services():
        if "image" not in entry:
            continue
        image = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", entry["image"])
        assert re.search(r":[\w.-]+$", image)
        assert not image.endswith(":latest")
        if file != "compose.ollama.rocm.yaml":
            assert pinned[name] == image, (file, name)


def test_no_secret_has_a_default() -> None:
    text = "".join((FOLDER / name).read_text(encoding="utf-8") for name in FILES)
    for variable in SECRETS:
        forms = set(re.findall(rf"\$\{{{variable}([^}}]*)\}}", text))
        assert any(form.startswith(":?") for form in forms), variable
        assert all(form.startswith(":?") or not form for form in forms), (variable, forms)
    assert not re.search(r"infini_rag_flow|changeme", text)


def test_the_env_example_has_every_required_variable_and_no_value_for_a_secret() -> None:
    values = parse_env((FOLDER / "env.example").read_text(encoding="utf-8"))
    assert {name: values[name] for name in SECRETS} == dict.fromkeys(SECRETS, "")


def test_the_health_check_of_executors_does_not_find_itself() -> None:
    command = load("compose.executors.yaml")["services"]["executor"]["healthcheck"]["test"][1]
    pattern = re.search(r"grep -qa '([^']+)'", command)
    assert pattern is not None
    assert not re.search(pattern.group(1), command)
    assert re.search(pattern.group(1), "python3 rag/svr/task_executor.py")


def test_the_dockerfile_runs_without_rights_and_with_a_health_check() -> None:
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE) == ["10001"]
    assert text.rindex("USER 10001") < text.rindex("ENTRYPOINT")
    assert "HEALTHCHECK" in text
    assert "libgomp1" in text
    for source in re.findall(r"^COPY ((?!--)[^\n]+)$", text, re.MULTILINE):
        for name in source.split()[:-1]:
            assert (Path(__file__).resolve().parents[2] / name).exists(), name


@pytest.mark.parametrize("addon", ["", *ADDONS])
def test_compose_accepts_the_files(addon: str, tmp_path: Path) -> None:
    program = find_compose()
    if not program:
        pytest.skip("no docker-compose 2 or later (set RFCTL_TEST_COMPOSE)")
    env_file = tmp_path / "stack.env"
    values = dict.fromkeys(SECRETS, "0" * 32) | {
        "COMPOSE_PROFILES": "elasticsearch",
        "TEI_MODEL": "BAAI/bge-m3",
        "RFCTL_TLS_BIND": "192.0.2.1",
        "RFCTL_TLS_NAME": "rag.example",
    }
    env_file.write_text("".join(f"{name}={value}\n" for name, value in values.items()), encoding="utf-8")
    command = [program, "--env-file", str(env_file), "--project-directory", str(FOLDER)]
    for name in ["compose.yaml", *(ADDONS[addon] if addon else ())]:
        command += ["-f", str(FOLDER / name)]
    done = subprocess.run(
        [*command, "config", "--format", "json"],
        capture_output=True,
        encoding="utf-8",
        timeout=30,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["name"] == "rfctl"
    assert {"ragflow", "es01", "mysql", "minio", "redis"} <= set(document["services"])
    assert "infinity" not in document["services"]
    if addon == "executors":
        executor = document["services"]["executor"]
        assert executor["command"] == ["--disable-webserver", "--disable-datasync", "--workers=1"]
        assert "ports" not in executor
        assert list(executor["depends_on"]) == ["ragflow"]
