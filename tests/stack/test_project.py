"""The settings of the stack, and what becomes of a failing `docker compose`, without an engine."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfctl.core.error import RefusedError, RfctlError, UsageError
from rfctl.stack.change import change
from rfctl.stack.child import Capture, run
from rfctl.stack.claim import note_claim
from rfctl.stack.compose import Compose, explain
from rfctl.stack.project import (
    SECRETS,
    Project,
    choose_size,
    initialise,
    parse_env,
    public_values,
    secret_faults,
    set_values,
)


def test_init_makes_secrets_that_only_the_owner_can_read(tmp_path: Path) -> None:
    project = Project(tmp_path / "stack")
    made = initialise(project, size="small", addons=("ollama",), web_port=8088)
    assert (made.created, made.size, made.web_port) == (True, "small", 8088)
    assert project.env_file.stat().st_mode & 0o777 == 0o600
    values = project.read()
    assert secret_faults(values) == {}
    assert all(re.fullmatch(r"[0-9a-f]{24,}", values[name]) for name in SECRETS)
    assert len({values[name] for name in SECRETS}) == len(SECRETS)
    assert len(values["RAGFLOW_SECRET_KEY"]) >= 32
    assert values["ES_MEM_LIMIT"] == "2g"
    assert not set(SECRETS) & set(public_values(values))
    names = [path.name for path in project.compose_files()]
    assert names == ["compose.yaml", "compose.ollama.yaml"]


def test_init_never_replaces_the_passwords_of_a_database(tmp_path: Path) -> None:
    project = Project(tmp_path)
    initialise(project, size="small")
    before = project.env_file.read_bytes()
    with pytest.raises(RefusedError) as caught:
        initialise(project, size="large", web_port=9999)
    assert caught.value.id == "stack.kept"
    assert project.env_file.read_bytes() == before
    assert change(project).changed == ()
    assert project.env_file.read_bytes() == before


def test_new_passwords_do_not_claim_the_data_of_the_old_ones(tmp_path: Path) -> None:
    project = Project(tmp_path)
    initialise(project, size="small")
    note_claim(project)
    project.images_file.write_text("{}")
    assert change(project, size="large").changed
    assert (project.claim_file.exists(), project.images_file.exists()) == (True, True)
    project.env_file.unlink()
    initialise(project, size="small")
    assert (project.claim_file.exists(), project.images_file.exists()) == (False, False)


def test_an_existing_stack_takes_what_is_asked_for_and_keeps_its_passwords(tmp_path: Path) -> None:
    project = Project(tmp_path)
    initialise(project, size="small")
    before = project.read()
    made = change(project, size="large", addons=("tei", "tls"), api_port=9381)
    after = project.read()
    assert {name: after[name] for name in SECRETS} == {name: before[name] for name in SECRETS}
    assert (made.created, made.size, made.addons, made.missing) == (
        False, "large", ("tei", "tls"), ("RFCTL_TLS_BIND", "RFCTL_TLS_NAME"),
    )  # fmt: skip
    assert (after["ES_MEM_LIMIT"], after["RFCTL_API_PORT"]) == ("8g", "9381")
    assert after["COMPOSE_PROFILES"] == "elasticsearch,tei-cpu"
    assert set(made.changed) == {name for name in after if after[name] != before.get(name)}
    assert project.env_file.stat().st_mode & 0o777 == 0o600
    set_values(project, {"RFCTL_TLS_NAME": "rag.example"})
    assert change(project, size="large", addons=("tls",), name="rfctl").changed == ()
    assert project.read()["RFCTL_TLS_NAME"] == "rag.example"
    refused: list[tuple[str, dict[str, Any]]] = [
        ("stack.name-fixed", {"name": "other"}),
        ("stack.addon-late", {"addons": ("external-mysql",)}),
        ("stack.addon-unknown", {"addons": ("sandbox",)}),
    ]
    for id, wish in refused:
        with pytest.raises(RfctlError) as caught:
            change(project, **wish)
        assert caught.value.id == id


def test_init_refuses_names_that_compose_refuses(tmp_path: Path) -> None:
    for name in ("", "Upper", "-x", "a b", "../x"):
        with pytest.raises(UsageError):
            initialise(Project(tmp_path), size="small", name=name)
    with pytest.raises(UsageError) as caught:
        initialise(Project(tmp_path), size="small", addons=("sandbox",))
    assert caught.value.id == "stack.addon-unknown"
    assert not Project(tmp_path).is_initialised


def test_the_size_follows_the_memory() -> None:
    sizes = [choose_size(gigabytes * 10**9) for gigabytes in (0, 8, 16, 25, 34, 64)]
    assert sizes == ["small", "small", "small", "standard", "standard", "large"]


def test_bad_secrets_are_told_apart() -> None:
    good = dict.fromkeys(SECRETS, "0123456789abcdef0123")
    assert secret_faults(good) == {}
    bad = good | {"MYSQL_PASSWORD": "infini_rag_flow", "REDIS_PASSWORD": "", "MINIO_PASSWORD": "short"}
    bad["ELASTIC_PASSWORD"] = "it's-a-quoted-$ecret"
    assert secret_faults(bad) == {
        "MYSQL_PASSWORD": "default",
        "REDIS_PASSWORD": "missing",
        "MINIO_PASSWORD": "short",
        "ELASTIC_PASSWORD": "charset",
    }


NAMES = st.from_regex(r"\A[A-Z][A-Z0-9_]{0,8}\Z")


@given(st.dictionaries(NAMES, st.from_regex(r"\A[A-Za-z0-9:/._-]{0,12}\Z")))
def test_an_env_file_reads_as_it_was_written(values: dict[str, str]) -> None:
    text = "\ufeff# remark\r\n\r\n" + "".join(f"{name}={value}\r\n" for name, value in values.items())
    assert parse_env(text) == values


@given(st.text(max_size=200))
def test_an_env_file_may_hold_anything(text: str) -> None:
    assert all(isinstance(value, str) for value in parse_env(text).values())


# What Compose 5.6.1 and the engine said when it was recorded.
SAID = {
    "stack.engine-down": "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker"
    " daemon running?",
    "stack.engine-denied": "permission denied while trying to connect to the Docker daemon socket at"
    " unix:///var/run/docker.sock: dial unix /var/run/docker.sock: connect: permission denied",
    "stack.secret-missing": "error while interpolating services.mysql.environment.MYSQL_ROOT_PASSWORD:"
    " required variable MYSQL_PASSWORD is missing a value: run rfctl stack init",
    "stack.port-taken": "driver failed programming external connectivity on endpoint"
    " rfctl-ragflow-1 (3f): Bind for 127.0.0.1:9380 failed: port is already allocated",
    "stack.no-gpu": 'could not select device driver "nvidia" with capabilities: [[gpu]]',
    "stack.rlimit": "failed to create shim task: OCI runtime create failed: runc create"
    " failed: error setting rlimit type 8: operation not permitted: unknown",
    "stack.image-offline": 'Error response from daemon: Get "https://registry.example/v2/": dial tcp: lookup'
    " registry.example on 10.0.0.2:53: dial udp 10.0.0.2:53: connect: network is unreachable",
    "stack.image-missing": "manifest for mysql:8.9.99 not found: manifest unknown",
    "stack.no-compose": "unknown flag: --ansi\n\nUsage:  docker [OPTIONS] COMMAND [ARG...]",
    "stack.old-compose": "unknown flag: --wait-timeout",
    "stack.disk-full": "failed to register layer: write /usr/share/x: no space left on device",
    "stack.failed": "something that nobody has seen before",
}


@pytest.mark.parametrize("id", SAID)
def test_each_recorded_failure_gets_its_own_id_cause_and_fix(id: str) -> None:
    error = explain(Capture("done", 1, "", " Container rfctl-mysql-1  Creating\n" + SAID[id] + "\n"))
    assert error.id == id
    assert error.exit_code == (3 if id.startswith("stack.engine") else 1)
    for language in ("en", "zh"):
        text = error.text(language)
        assert text.why
        assert text.next
        assert not re.search(r"\{\w+\}", text.message + text.why + text.next)
    if id == "stack.port-taken":
        assert error.params["name"] == "127.0.0.1:9380"
        assert "RFCTL_API_PORT" in str(error.params["setting"])


def test_a_password_in_a_failure_is_not_shown() -> None:
    error = explain(Capture("done", 1, "", "oops: MYSQL_PASSWORD=abcdef0123456789"))
    assert "abcdef" not in str(error)


def test_a_setting_of_an_addon_that_is_missing_is_a_matter_of_configuration() -> None:
    said = "required variable RFCTL_TLS_BIND is missing a value: name the LAN address in RFCTL_TLS_BIND"
    error = explain(Capture("done", 1, "", said))
    assert (error.id, error.exit_code, error.params["name"]) == ("stack.value-missing", 2, "RFCTL_TLS_BIND")


def test_no_docker_and_a_timeout() -> None:
    assert explain(Capture("missing")).id == "stack.no-docker"
    late = explain(Capture("timeout"), timeout=5)
    assert (late.id, late.exit_code) == ("stack.timeout", 3)


def test_secrets_stay_out_of_arguments_and_the_shell_does_not_override_the_file(tmp_path: Path) -> None:
    project = Project(tmp_path / "stack")
    initialise(project, size="small")
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "docker"
    script.write_text(
        f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([sys.argv, dict(os.environ)]))\n"
    )
    script.chmod(0o755)
    shell = {
        "PATH": str(folder),
        "MYSQL_PASSWORD": "from-the-shell",
        "COMPOSE_FILE": "/other.yaml",
        "KEEP": "1",
    }
    found = Compose(project, shell).call("up")
    arguments, environment = json.loads(found.out)
    values = project.read()
    assert not any(values[name] in " ".join(arguments) for name in SECRETS)
    assert "MYSQL_PASSWORD" not in environment
    assert "COMPOSE_FILE" not in environment
    assert environment["KEEP"] == "1"


def test_a_child_has_a_deadline() -> None:
    found = run([sys.executable, "-c", "import time; print('x', flush=True); time.sleep(30)"], timeout=1)
    assert (found.state, found.out) == ("timeout", "x\n")
    assert run(["no-such-program-anywhere"], timeout=1).state == "missing"


def test_up_refuses_what_is_not_safe_to_start(rfctl: Callable[..., Any], environment: dict[str, str]) -> None:
    first = rfctl("stack", "up")
    assert (first.code, first.err.splitlines()[0].split("]")[0]) == (2, "error[stack.not-initialised")
    assert rfctl("stack", "init").code == 0
    env_file = Path(environment["RFCTL_HOME"]) / "data" / "stack" / "stack.env"
    text = env_file.read_text(encoding="utf-8")
    env_file.write_text(re.sub(r"MYSQL_PASSWORD=.*", "MYSQL_PASSWORD=", text), encoding="utf-8")
    result = rfctl("stack", "up")
    assert result.code == 1
    assert result.err.startswith(
        "error[stack.secret-missing]: A secret is missing or unsafe in stack.env: MYSQL_PASSWORD (missing)\n"
    )
    env_file.write_text(text.replace("RFCTL_BIND=127.0.0.1", "RFCTL_BIND=0.0.0.0"), encoding="utf-8")
    assert rfctl("stack", "up").code == 7


def test_a_server_of_ones_own_is_asked_for(rfctl: Callable[..., Any], environment: dict[str, str]) -> None:
    made = rfctl("stack", "init", "--add", "external-mysql", "--add", "external-s3")
    names = "MYSQL_HOST, MYSQL_USER, MYSQL_PASSWORD, S3_ENDPOINT, S3_BUCKET, S3_ACCESS_KEY, S3_SECRET_KEY"
    assert f"Fill in first: {names} in " in made.err
    result = rfctl("stack", "up")
    assert (result.code, result.err.splitlines()[0]) == (
        2,
        f"error[stack.value-missing]: stack.env lacks {names}: RFCTL_ADDONS=external-mysql,external-s3",
    )
    project = Project(Path(environment["RFCTL_HOME"]) / "data" / "stack")
    values = project.read()
    for name in ("MYSQL_HOST", "MYSQL_USER", "S3_ENDPOINT", "S3_BUCKET", "S3_ACCESS_KEY", "S3_SECRET_KEY"):
        values[name] = "x"
    # The length of a foreign password is not ours to judge; quotes and defaults are.
    assert secret_faults(values | {"MYSQL_PASSWORD": "short"}) == {}
    assert secret_faults(values | {"MYSQL_PASSWORD": "it's"}) == {"MYSQL_PASSWORD": "charset"}
    assert secret_faults(values | {"MYSQL_PASSWORD": "infini_rag_flow"}) == {"MYSQL_PASSWORD": "default"}


def test_init_prints_no_password(rfctl: Callable[..., Any], environment: dict[str, str]) -> None:
    result = rfctl("stack", "init", "--size", "standard", "--json")
    env_file = Path(environment["RFCTL_HOME"]) / "data" / "stack" / "stack.env"
    values = parse_env(env_file.read_text(encoding="utf-8"))
    assert json.loads(result.out)["created"] is True
    assert not any(values[name] in result.out + result.err for name in SECRETS)
