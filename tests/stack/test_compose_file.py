"""The shipped compose files keep to the rules of the project, add-ons too; Compose itself accepts them."""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker_engine import find_compose

from rfctl.core.data import data_folder
from rfctl.stack.compose import Compose
from rfctl.stack.project import ADDONS, SECRETS, Project, initialise, missing_values, parse_env, pins

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
    used = {name for files in ADDONS.values() for name in files}
    used |= {"compose.yaml", "compose.external-s3.executors.yaml"}
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


VARIANTS = [{"ollama", "ollama-nvidia", "ollama-rocm"}]
COMBINATIONS = [
    (),
    *((addon,) for addon in ADDONS),
    *(
        pair
        for pair in itertools.combinations(ADDONS, 2)
        if not any(set(pair) <= variants for variants in VARIANTS)
    ),
    tuple(addon for addon in ADDONS if addon not in ("ollama", "ollama-rocm")),
]


@pytest.fixture(scope="module")
def resolved(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], dict[str, Any]]:
    """What Compose makes of every add-on, of every pair and of all of them, as `rfctl stack` calls it."""
    program = find_compose()
    if not program:
        pytest.skip("no docker-compose 2 or later (set RFCTL_TEST_COMPOSE)")
    folder = tmp_path_factory.mktemp("resolved")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}

    def resolve(addons: tuple[str, ...]) -> dict[str, Any]:
        project = Project(folder / ("-".join(addons) or "none"))
        initialise(project, size="small", addons=addons)
        text = project.env_file.read_text(encoding="utf-8")
        for name in missing_values(project.read()):
            text = re.sub(rf"^{name}=$", f"{name}={VALUES.get(name, '192.0.2.1')}", text, flags=re.MULTILINE)
        project.env_file.write_text(text, encoding="utf-8")
        assert missing_values(project.read()) == ()
        command = Compose(project, environment).command("config", "--format", "json")
        command[:2] = [program]
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
            env=environment,
            cwd=folder,
        )
        assert done.returncode == 0, (addons, done.stderr)
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(COMBINATIONS, pool.map(resolve, COMBINATIONS), strict=True))


VALUES = {"RFCTL_TLS_NAME": "rag.example", "RFCTL_OLLAMA_POOL": "server 192.0.2.2:11434;"}


def test_compose_accepts_every_combination_and_the_policy_holds(
    resolved: dict[tuple[str, ...], dict[str, Any]],
) -> None:
    for addons, document in resolved.items():
        names = set(document["services"])
        core = {"ragflow", "es01", "mysql", "minio", "redis"}
        outside = {OUTSIDE[addon] for addon in addons if addon in OUTSIDE}
        assert core & names == core - outside, addons
        assert "infinity" not in names
        for name, entry in document["services"].items():
            _keeps_to_the_policy(addons, name, entry)
        ragflow = document["services"]["ragflow"]
        assert set(ragflow["depends_on"]) & names == core - outside - {"ragflow"}, addons
        # RAGFlow's migrations at the first start of a new version.
        assert {"--init-superuser", "--init-model-provider-tables"} <= set(ragflow["command"])


OUTSIDE = {
    "external-mysql": "mysql",
    "external-redis": "redis",
    "external-elasticsearch": "es01",
    "external-s3": "minio",
}


def _keeps_to_the_policy(addons: tuple[str, ...], name: str, entry: dict[str, Any]) -> None:
    where = (addons, name)
    for port in entry.get("ports", []):
        address = ipaddress.ip_address(port["host_ip"])
        assert address.is_loopback or (name == "caddy" and str(address) == "192.0.2.1"), where
    assert entry["healthcheck"]["test"], where
    assert not entry["healthcheck"].get("disable"), where
    assert int(entry["mem_limit"]) >= 128 << 20, where
    tag = entry["image"].rpartition("/")[2].partition(":")[2]
    assert tag, where
    assert "latest" not in tag, where
    assert not {"privileged", "network_mode", "pid", "cap_add"} & set(entry), where
    for volume in entry.get("volumes", []):
        assert volume["type"] in ("volume", "tmpfs"), where
    for variable, value in (entry.get("environment") or {}).items():
        if re.search("PASSWORD|SECRET", variable):
            assert value.lower() not in ("admin", "password", "infini_rag_flow", ""), (where, variable)


def test_executors_see_the_servers_that_ragflow_sees(resolved: dict[tuple[str, ...], dict[str, Any]]) -> None:
    plain = resolved[("executors",)]["services"]["executor"]
    assert plain["command"] == ["--disable-webserver", "--disable-datasync", "--workers=1"]
    assert "ports" not in plain
    assert list(plain["depends_on"]) == ["ragflow"]
    for addon in OUTSIDE:
        services = resolved[("executors", addon)]["services"]
        ragflow, executor = services["ragflow"], services["executor"]
        assert ragflow["environment"] == executor["environment"], addon
        assert ragflow.get("configs") == executor.get("configs"), addon


def test_the_resolved_files_fit_the_schema_of_compose(
    resolved: dict[tuple[str, ...], dict[str, Any]], tmp_path: Path
) -> None:
    paths = []
    for number, document in enumerate(resolved.values()):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        paths.append(str(path))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, *paths], capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    broken = tmp_path / "broken.json"
    broken.write_text('{"services": {"a": {"image": "x", "prots": []}}}', encoding="utf-8")
    done = subprocess.run([*command, str(broken)], capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
