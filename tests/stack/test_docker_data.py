"""Backup, restore, upgrade and pinning on a real engine: what happens to data, also when it is cut off."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from docker_engine import CORE, IMAGE, Stack

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture
def up(stack: Stack) -> Stack:
    result = stack("stack", "up", "--timeout", "60")
    assert result.code == 0, result.err
    stack.engine.docker(
        "exec", "rfctl-mysql-1", "sh", "-c",
        "umask 027; cd /var/lib/mysql; echo first >marker; chown 999:998 . marker; chmod 750 .",
    )  # fmt: skip
    stack.engine.docker("exec", "rfctl-minio-1", "sh", "-c", "mkdir /data/bucket; echo pdf >/data/bucket/a")
    return stack


def mysql(stack: Stack, script: str, project: str = "rfctl") -> str:
    return stack.engine.docker("exec", f"{project}-mysql-1", "sh", "-c", f"cd /var/lib/mysql; {script}")


def running(stack: Stack) -> list[str]:
    return sorted(stack.engine.docker("ps", "--format", "{{.Names}}").split())


def all_containers(stack: Stack) -> list[str]:
    return sorted(stack.engine.docker("ps", "-a", "--format", "{{.Names}}").split())


ALL = sorted(f"rfctl-{name}-1" for name in CORE)


def test_what_was_saved_comes_back_and_nothing_is_lost_by_mistake(up: Stack, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    result = up("stack", "backup", str(folder), "--json")
    assert result.code == 0, result.err
    manifest = json.loads(result.out)
    assert not any(value in result.out + result.err for value in up.secrets().values())
    assert [entry["volume"] for entry in manifest["archives"]] == [
        "esdata01", "minio_data", "mysql_data", "ragflow_logs", "redis_data",
    ]  # fmt: skip
    for entry in manifest["archives"]:
        data = (folder / entry["file"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size"], entry["sha256"])
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert running(up) == ALL
    assert up("stack", "backup", str(folder)).err.startswith("error[stack.backup-exists]")

    mysql(up, "echo second >marker; echo x >new")
    refused = up("stack", "restore", str(folder))
    assert refused.code == 7
    assert "rfctl_mysql_data" in refused.err
    assert running(up) == ALL
    assert mysql(up, "cat marker new") == "second\nx\n"

    _a_broken_backup_changes_nothing(up, folder)

    up.set(MYSQL_PASSWORD="f" * 48, RFCTL_WEB_PORT="8090")
    result = up("stack", "restore", str(folder), "--yes")
    assert result.code == 0, result.err
    assert "stack.env now has the passwords of the backup" in result.err
    values = dict(line.split("=", 1) for line in up.env_file.read_text("utf-8").splitlines())
    saved = dict(line.split("=", 1) for line in (folder / "stack.env").read_text("utf-8").splitlines())
    assert values["MYSQL_PASSWORD"] == saved["MYSQL_PASSWORD"] != "f" * 48
    assert values["RFCTL_WEB_PORT"] == "8090"
    assert running(up) == []
    assert up("stack", "up", "--timeout", "60").code == 0
    assert (
        mysql(up, "cat marker; ls; stat -c '%u:%g %a' . marker")
        == "first\nmarker\n999:998 750\n999:998 640\n"
    )
    assert up.engine.docker("exec", "rfctl-minio-1", "cat", "/data/bucket/a") == "pdf\n"
    _another_home_starts_from_it(up, folder, tmp_path / "other")


def _a_broken_backup_changes_nothing(stack: Stack, folder: Path) -> None:
    archive = folder / "mysql_data.tar.gz"
    good = archive.read_bytes()
    archive.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    result = stack("stack", "restore", str(folder), "--yes")
    assert (result.code, "error[stack.backup-broken]" in result.err) == (1, True)
    archive.write_bytes(good)
    manifest = folder / "manifest.json"
    text = manifest.read_text("utf-8")
    for bad in (text.replace("mysql_data", "../mysql_data"), text.replace(IMAGE, "--privileged"), "[]"):
        manifest.write_text(bad, "utf-8")
        assert stack("stack", "restore", str(folder), "--yes").err.startswith("error[stack.backup-broken]")
    manifest.write_text(text, "utf-8")
    assert running(stack) == ALL
    assert mysql(stack, "cat marker") == "second\n"


def _another_home_starts_from_it(stack: Stack, folder: Path, home: Path) -> None:
    """A new machine has no stack.env: the backup brings it, and no volume is there to be asked about."""
    assert stack("stack", "down").code == 0
    volumes = stack.engine.docker("volume", "ls", "-q").split()
    stack.engine.docker("volume", "rm", *volumes)
    result = stack("stack", "restore", str(folder), RFCTL_HOME=str(home))
    assert result.code == 0, result.err
    assert (home / "data" / "stack" / "stack.env").stat().st_mode & 0o777 == 0o600
    assert in_volume(stack, "cat /volume/marker") == "first\n"
    volume = json.loads(stack.engine.docker("volume", "inspect", "rfctl_mysql_data"))[0]
    assert volume["Labels"] == {
        "com.docker.compose.project": "rfctl",
        "com.docker.compose.volume": "mysql_data",
    }


def in_volume(stack: Stack, script: str) -> str:
    mounts = [part for name in ("bin", "lib", "lib64") for part in ("-v", f"/usr/{name}:/usr/{name}:ro")]
    return stack.engine.docker(
        "run", "--rm", "-v", "rfctl_mysql_data:/volume", *mounts, IMAGE, "/usr/bin/sh", "-c", script
    )


def start(stack: Stack, home: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | stack.environment() | {"RFCTL_HOME": str(home), "RFCTL_LANG": "en"}
    command = [sys.executable, "-m", "rfctl.cli.main", *arguments]
    # A shell starts what runs in its background with Ctrl-C switched off, and children inherit that.
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(condition: object, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_in_the_middle(up: Stack, tmp_path: Path) -> None:
    home = up.env_file.parents[2]
    mysql(up, "head -c 96000000 /dev/urandom >big")
    folder, partial = tmp_path / "saved", tmp_path / ".saved.partial"
    archive = partial / "mysql_data.tar.gz"

    def is_under_way() -> bool:
        return archive.exists() and archive.stat().st_size > 1 << 20

    # A full disk: nothing stays, and the stack runs again.
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], check=True)
    try:
        full = up("stack", "backup", str(small / "saved"))
        assert (full.code, "No space left on device" in full.err) == (1, True), full.err
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert running(up) == ALL

    # Ctrl-C: the same.
    process = start(up, home, "stack", "backup", str(folder))
    wait_for(is_under_way)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert not folder.exists()
    assert not partial.exists()
    assert running(up) == ALL

    # While one is under way nothing else starts or stops the databases.
    process = start(up, home, "stack", "backup", str(folder))
    wait_for(is_under_way)
    process.send_signal(signal.SIGSTOP)
    for verb in ("up", "down", "backup"):
        refused = up("stack", verb)
        assert (refused.code, refused.err.split("]")[0]) == (7, "error[stack.busy"), verb
    assert json.loads(up("stack", "status", "--json").out)["cut_off"] == ""

    # kill -9: the stack stays stopped, everybody says so, and `up` or the next backup starts it again.
    process.kill()
    process.wait()
    assert (folder.exists(), running(up)) == (False, [])
    status = up("stack", "status")
    assert status.err == (
        f"warning: A backup was cut off and has left containers stopped; its part is in {partial}\n"
        "  next: rfctl stack up\n"
    )
    assert up("stack", "up", "--timeout", "60").code == 0
    assert not partial.exists()
    assert up("stack", "status").err == ""
    assert all_containers(up) == ALL
    process = start(up, home, "stack", "backup", str(tmp_path / "other"))
    wait_for(lambda: (tmp_path / ".other.partial" / "mysql_data.tar.gz").exists())
    process.kill()
    process.wait()
    process = start(up, home, "stack", "backup", str(folder))
    wait_for(lambda: archive.exists())
    process.kill()
    process.wait()
    # The same command again, whose part is still there.
    again = up("stack", "backup", str(folder))
    assert again.code == 0, again.err
    assert sorted(path.name for path in tmp_path.glob(".*")) == []
    assert running(up) == all_containers(up) == ALL

    # A restore that is killed is finished before anything starts.
    process = start(up, home, "stack", "restore", str(folder), "--yes")
    unfinished = up.env_file.with_name("restore.unfinished")
    wait_for(lambda: unfinished.exists() and not running(up) and "rfctl_minio_data" in volumes(up))
    process.kill()
    process.wait()
    result = up("stack", "up")
    assert (result.code, result.err.splitlines()[0]) == (
        7,
        f"error[stack.restore-unfinished]: A restore of {folder} was cut off; the volumes hold a part of it",
    )
    assert up("stack", "restore", str(folder), "--yes").code == 0
    assert not unfinished.exists()
    assert in_volume(up, "stat -c %s /volume/big") == "96000000\n"


def volumes(stack: Stack) -> str:
    return stack.engine.docker("volume", "ls", "-q")


def test_data_of_another_home_is_not_started_with_other_passwords(stack: Stack, tmp_path: Path) -> None:
    stack.modes["minio"] = "dead"
    assert stack("stack", "up", "--timeout", "20").code == 1
    # One's own start that failed is tried again.
    stack.modes.clear()
    assert stack("stack", "up", "--timeout", "60").code == 0
    other = {"RFCTL_HOME": str(tmp_path / "other")}
    assert stack("stack", "init", "--size", "small", **other).code == 0
    refused = stack("stack", "up", **other)
    assert (refused.code, refused.err.split("]")[0]) == (7, "error[stack.foreign-data")
    assert "rfctl_mysql_data" in refused.err
    assert "then: rfctl stack up --own-data" in refused.err
    assert running(stack) == ALL
    (tmp_path / "other" / "data" / "stack" / "stack.env").write_bytes(stack.env_file.read_bytes())
    assert stack("stack", "up", "--own-data", "--timeout", "60", **other).code == 0
    assert stack("stack", "up", "--timeout", "60", **other).code == 0


def test_an_upgrade_and_the_way_back(stack: Stack) -> None:
    for tag in ("v0.26.0", "v0.27.0"):
        stack.engine.docker("tag", IMAGE, f"rfctl-test/ragflow:{tag}")
    assert (
        stack("stack", "upgrade").out == "The stack was never started here, so there is nothing to upgrade\n"
    )
    stack.images["ragflow"] = "rfctl-test/ragflow:v0.26.0"
    assert stack("stack", "up", "--timeout", "60").code == 0
    assert stack("stack", "upgrade").out == "The stack runs the images of this rfctl already\n"
    mysql(stack, "echo old >marker")

    stack.images["ragflow"] = "rfctl-test/ragflow:v0.27.0"
    refused = stack("stack", "up")
    assert refused.code == 7
    assert refused.err.startswith(
        "error[stack.upgrade-first]: This rfctl would start another version of ragflow: "
        "rfctl-test/ragflow:v0.26.0 -> rfctl-test/ragflow:v0.27.0\n"
    )
    planned = json.loads(stack("stack", "upgrade", "--dry-run", "--json").out)
    assert [(row["service"], row["direction"]) for row in planned["changes"]] == [("ragflow", "up")]
    assert stack("stack", "upgrade").code == 7

    stack.modes["ragflow"] = "dead"
    failed = stack("stack", "upgrade", "--yes", "--timeout", "40")
    assert failed.code == 1
    assert "error[stack.upgrade-failed]: The new version does not get healthy: ragflow runs but" in failed.err
    folder = re.search(r"rfctl stack restore (\S+) --yes", failed.err)
    assert folder is not None
    mysql(stack, "echo migrated >marker")

    back = stack("stack", "restore", folder.group(1), "--yes")
    assert back.code == 0, back.err
    assert "The data belongs to other images than this rfctl names" in back.err
    stack.modes.clear()
    assert stack("stack", "up", "--timeout", "60").code == 0
    assert image(stack) == "rfctl-test/ragflow:v0.26.0"
    assert mysql(stack, "cat marker") == "old\n"

    done = stack("stack", "upgrade", "--yes", "--json", "--timeout", "60")
    assert done.code == 0, done.err
    state = json.loads(done.out)["status"]
    assert (state["running"], state["cut_off"]) == (True, "")
    assert image(stack) == "rfctl-test/ragflow:v0.27.0"
    assert mysql(stack, "cat marker") == "old\n"
    assert stack("stack", "down").code == 0
    stack.images["ragflow"] = "rfctl-test/ragflow:v0.26.0"
    for verb in ("up", "upgrade"):
        assert stack("stack", verb).err.startswith("error[stack.downgrade]: ragflow would go back from ")


def image(stack: Stack, service: str = "ragflow") -> str:
    return stack.engine.docker("inspect", "-f", "{{.Config.Image}}", f"rfctl-{service}-1").strip()


def test_images_are_pinned_by_what_the_registry_says(stack: Stack) -> None:
    offline = stack("stack", "pin")
    assert (offline.code, "error[stack.image-offline]" in offline.err) == (1, True), offline.err
    registry = stack.engine.serve_registry()
    stack.images = dict.fromkeys(CORE, f"{registry}/stub/gone:1")
    missing = stack("stack", "up", "--timeout", "20")
    said = f"error[stack.image-missing]: An image does not exist: {registry}/stub/gone:1: "
    assert (missing.code, said in missing.err) == (1, True), missing.err
    stack.images = {name: f"{registry}/stub/{name}:1.0" for name in CORE}
    result = stack("stack", "pin", "--json")
    assert result.code == 0, result.err
    pinned = json.loads(result.out)["images"]
    assert set(pinned) == {*CORE, "executor"}
    assert all(
        re.fullmatch(rf"{registry}/stub/\w+:1\.0@sha256:[0-9a-f]{{64}}", name) for name in pinned.values()
    )
    assert stack("stack", "up", "--timeout", "60").code == 0
    assert image(stack) == pinned["ragflow"]
    assert running(stack) == ALL
    stack.services = (*CORE, "executor")
    stack.modes["executor"] = "task_executor"
    stack.images["executor"] = stack.images["ragflow"]
    assert stack("stack", "up", "--timeout", "60", "--executors", "1").code == 0
    assert image(stack, "executor") == pinned["executor"] == pinned["ragflow"]
    stack.engine.docker("rm", "-f", "rfctl-executor-1")
    stack.services = CORE
    assert stack("stack", "pin", "--remove").code == 0
    assert stack("stack", "up", "--timeout", "60").code == 0
    assert image(stack) == f"{registry}/stub/ragflow:1.0"
    _a_machine_without_images_downloads_one(stack, pinned["redis"])


def _a_machine_without_images_downloads_one(stack: Stack, image: str) -> None:
    folder = stack.folder / "saved"
    assert stack("stack", "backup", str(folder)).code == 0
    stack.engine.clear()
    repository = image.partition("@")[0].rpartition(":")[0]
    stack.engine.docker("rmi", "--force", stack.engine.docker("images", "--quiet", repository).split()[0])
    assert stack.engine.docker("images", "--quiet", repository) == ""
    home = str(stack.folder / "new")
    result = stack("stack", "restore", str(folder), RFCTL_HOME=home)
    assert result.code == 0, result.err
    assert "rfctl_mysql_data" in volumes(stack)
    assert stack.engine.docker("images", "--quiet", repository) != ""
