"""`rfctl model fetch` against a real sshd: whole, resumed, broken, changed, hostile, interrupted."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ssh_server import SshServer, run_server

from rfctl.core.error import RfctlError, UsageError
from rfctl.stack import fetch_remote
from rfctl.stack.fetch import fetch
from rfctl.stack.fetch_remote import Hashes, list_remote, parse_source
from rfctl.stack.fetch_ssh import Source

Run = Callable[..., Any]
CONTENT = hashlib.shake_128(b"model").digest(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    yield from run_server(tmp_path_factory.mktemp("sshd"))


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """A folder of the server, whose name is hard for shells."""
    folder = tmp_path / "far away $(touch x) 'q'"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(CONTENT)
    return folder


@pytest.fixture
def bring(rfctl: Run, server: SshServer) -> Run:
    def run(path: object, *arguments: str, **options: Any) -> Any:
        words = ("model", "fetch", f"cloud:{path}", *arguments, "--ssh-config", str(server.config))
        return rfctl(*words, **options)

    return run


def source(server: SshServer, path: Path) -> Source:
    return Source("cloud", str(path), config=str(server.config))


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_file_comes_once(bring: Run, remote: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    done = bring(remote / "model.gguf", str(here))
    assert (done.code, done.out) == (0, f"{here}/model.gguf is here: 3.0 MB, sha256 {SHA256}\n"), done.err
    assert (here / "model.gguf").read_bytes() == CONTENT
    assert names(here) == ["model.gguf"]
    again = bring(remote / "model.gguf", str(here), "--json")
    assert json.loads(again.out)["unchanged"] is True
    assert not (tmp_path / "x").exists()
    assert not (Path.home() / "x").exists()


def test_a_directory_comes_whole(bring: Run, remote: Path, tmp_path: Path) -> None:
    (remote / "onnx").mkdir()
    (remote / "onnx" / "说明 1.txt").write_text("说明", encoding="utf-8")
    (remote / "empty.txt").write_bytes(b"")
    (remote / "link.gguf").symlink_to(remote / "model.gguf")
    here = tmp_path / "here"
    done = bring(f"{remote}/", str(here))
    assert done.code == 0, done.err
    next_one = shlex.quote(str(here / remote.name))
    assert done.err.splitlines()[-1] == f"Next: rfctl model push {next_one}"
    assert names(here / remote.name) == ["empty.txt", "link.gguf", "model.gguf", "onnx/说明 1.txt"]
    assert (here / remote.name / "link.gguf").read_bytes() == CONTENT


def test_what_a_model_does_not_need_stays_there(bring: Run, remote: Path, tmp_path: Path) -> None:
    """A directory of a training: what is left out is neither brought nor counted for the disk."""
    (remote / "checkpoint-9").mkdir()
    (remote / ".git").mkdir()
    (remote / ".git" / "config").write_text("x")
    (remote / "checkpoint-9" / "config.json").write_text("{}")
    for name in ("optimizer.pt", "checkpoint-9/optimizer.bin"):
        with (remote / name).open("wb") as file:
            file.truncate(1 << 43)  # 8 TiB, sparse
    full = bring(remote, str(tmp_path / "here"))
    assert (full.code, "--exclude 'optimizer*'" in full.err) == (1, True)
    done = bring(remote, str(tmp_path / "here"), "--exclude", "optimizer*", "--exclude", ".git/*")
    assert done.code == 0, done.err
    here = tmp_path / "here" / remote.name
    assert names(here) == ["checkpoint-9/config.json", "model.gguf"]
    assert "error[bring.nothing]" in bring(remote, str(tmp_path / "none"), "--exclude", "*").err


def test_a_big_file_is_hashed_while_it_comes_not_with_the_small_ones(
    server: SshServer, remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_remote, "_BIG_BYTES", 1 << 20)
    (remote / "config.json").write_text("{}")
    (remote / "vocab.txt").write_text("a")
    place, calls = source(server, remote), []
    real = fetch_remote.open_ssh
    monkeypatch.setattr(fetch_remote, "open_ssh", lambda *words: calls.append(words[1]) or real(*words))
    files = list_remote(place)
    calls.clear()
    with Hashes(place, files) as hashes:
        for file in files:
            hashes.begin(file)
            assert hashes.get(file) == hashlib.sha256((remote / file.name).read_bytes()).hexdigest()
    assert [("config.json" in one, "vocab.txt" in one, "model.gguf" in one) for one in calls] == [
        (True, True, False),
        (False, False, True),
    ]


def test_what_arrived_is_not_brought_again(server: SshServer, remote: Path, tmp_path: Path) -> None:
    place = source(server, remote / "model.gguf")
    (about,) = list_remote(place)
    here = tmp_path / "here"
    here.mkdir()
    (here / "model.gguf.partial").write_bytes(CONTENT[:2_000_000])
    sidecar = {"source": str(place), "name": about.name, "size": about.size, "modified": about.modified}
    (here / "model.gguf.partial.json").write_text(json.dumps(sidecar), encoding="utf-8")
    (found,) = fetch(place, here)
    assert (found.resumed, found.sha256) == (2_000_000, SHA256)
    assert names(here) == ["model.gguf"]


def test_a_part_of_another_file_is_thrown_away(server: SshServer, remote: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "model.gguf.partial").write_bytes(b"x" * 1000)
    (here / "model.gguf.partial.json").write_text('{"source": "other"}', encoding="utf-8")
    (found,) = fetch(source(server, remote / "model.gguf"), here)
    assert (found.resumed, found.sha256) == (0, SHA256)


def test_damage_is_seen_and_the_next_run_begins_anew(server: SshServer, remote: Path, tmp_path: Path) -> None:
    place = source(server, remote / "model.gguf")
    (about,) = list_remote(place)
    here = tmp_path / "here"
    here.mkdir()
    (here / "model.gguf.partial").write_bytes(b"x" * 1000)
    sidecar = {"source": str(place), "name": about.name, "size": about.size, "modified": about.modified}
    (here / "model.gguf.partial.json").write_text(json.dumps(sidecar), encoding="utf-8")
    with pytest.raises(RfctlError, match=r"bring\.hash-differs"):
        fetch(place, here)
    assert names(here) == []
    assert fetch(place, here)[0].sha256 == SHA256


def test_another_file_of_that_name_stays(bring: Run, remote: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "model.gguf").write_bytes(b"mine")
    done = bring(remote / "model.gguf", str(here))
    assert (done.code, "error[bring.other-file]" in done.err) == (2, True)
    assert (here / "model.gguf").read_bytes() == b"mine"


def test_a_connection_that_breaks_is_taken_up_again(server: SshServer, tmp_path: Path) -> None:
    """The program that sends is killed twice in the middle."""
    big = tmp_path / "far.gguf"
    with big.open("wb") as file:
        file.write(CONTENT)
        file.truncate(70 << 20)  # big enough to be hashed there meanwhile
    partial = tmp_path / "here" / "far.gguf.partial"
    killed: list[int] = []
    stop = threading.Event()

    def kill() -> None:
        while len(killed) < 2 and not stop.is_set():
            before = partial.stat().st_size if partial.exists() else 0
            for pid in children(str(big)) if before else []:
                if pid not in killed:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            stop.wait(0.002)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        (found,) = fetch(source(server, big), tmp_path / "here")
    finally:
        stop.set()
        thread.join()
    assert killed
    with big.open("rb") as file:
        assert found.sha256 == hashlib.file_digest(file, "sha256").hexdigest()


def children(path: str) -> list[int]:
    """Processes that send this file."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if words[:2] == ["tail", "-c"] and words[3:4] == [path]:
            found.append(int(place.parent.name))
    return found


def test_an_interrupt_keeps_what_arrived(
    server: SshServer, environment: dict[str, str], tmp_path: Path
) -> None:
    far = tmp_path / "far"
    far.mkdir()
    big = far / "big.gguf"
    with big.open("wb") as file:
        file.truncate(2 << 30)  # sparse: nothing is written
    here = tmp_path / "here"
    command = [sys.executable, "-m", "rfctl.cli.main", "model", "fetch", f"cloud:{big}", str(here)]
    process = subprocess.Popen(
        [*command, "--ssh-config", str(server.config)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    partial = here / "big.gguf.partial"
    end = time.monotonic() + 30
    while time.monotonic() < end and not (partial.exists() and partial.stat().st_size > 1 << 20):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "the same command goes on from there" in err
    assert partial.stat().st_size > 1 << 20
    assert names(here) == ["big.gguf.partial", "big.gguf.partial.json"]
    partial.unlink()


def test_a_full_disk_is_said_before_the_first_byte(server: SshServer, tmp_path: Path) -> None:
    far = tmp_path / "far"
    far.mkdir()
    with (far / "big.gguf").open("wb") as file:
        file.truncate(1 << 43)  # 8 TiB, sparse
    with pytest.raises(RfctlError, match=r"bring\.disk-full"):
        fetch(source(server, far / "big.gguf"), tmp_path / "here")
    assert names(tmp_path / "here") == []


def test_two_at_once_do_not_write_one_file(server: SshServer, remote: Path, tmp_path: Path) -> None:
    from rfctl.core.lock import FileLock

    lock = FileLock(tmp_path / "here" / ".model.gguf.lock")
    assert lock.acquire()
    with pytest.raises(UsageError, match=r"bring\.busy"):
        fetch(source(server, remote / "model.gguf"), tmp_path / "here")
    lock.release()


def test_a_path_that_is_not_there(bring: Run, tmp_path: Path) -> None:
    done = bring(tmp_path / "nothing.gguf")
    assert done.code == 1
    assert "error[bring.refused]" in done.err
    assert "No such file or directory" in done.err
    (tmp_path / "empty").mkdir()
    assert "error[bring.nothing]" in bring(tmp_path / "empty").err


@pytest.fixture
def hostile(server: SshServer) -> Iterator[Callable[[bytes], None]]:
    """Binds the key to a program that answers what it likes, as a hostile server does."""
    answer = server.folder / "answer"

    def say(data: bytes) -> None:
        answer.write_bytes(data)
        server.force(f'grep -o "rfctl-[0-9a-f]*" <<< "$SSH_ORIGINAL_COMMAND"; cat {answer}')

    yield say
    server.force("")


@pytest.fixture
def login(server: SshServer) -> Iterator[Callable[[str], None]]:
    """What the account's login does before, or instead of, what it is asked to do."""
    yield server.force
    server.force("")


def test_a_login_that_greets_is_no_part_of_the_file(
    server: SshServer, login: Callable[[str], None], remote: Path, tmp_path: Path
) -> None:
    login('echo "=== Welcome ==="; printf "no end of line"; eval "$SSH_ORIGINAL_COMMAND"')
    (found,) = fetch(source(server, remote / "model.gguf"), tmp_path / "here")
    assert found.sha256 == SHA256


@pytest.mark.parametrize(
    "script",
    [
        "echo 'find: -printf: unknown primary or operator' >&2; exit 1",  # macOS
        'PATH=/nowhere; eval "${SSH_ORIGINAL_COMMAND/exec sh/exec \\/bin\\/sh}"',
    ],
)
def test_a_server_without_the_programs_is_said_before_the_first_byte(
    server: SshServer, login: Callable[[str], None], remote: Path, tmp_path: Path, script: str
) -> None:
    login(script)
    with pytest.raises(RfctlError, match=r"bring\.tools-missing"):
        fetch(source(server, remote / "model.gguf"), tmp_path / "here")
    assert names(tmp_path / "here") == []


def test_a_file_that_stops_coming_is_given_up(
    server: SshServer,
    login: Callable[[str], None],
    remote: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection stands, the disk over there hangs after half of the file; then it comes back."""
    half, gone = len(CONTENT) // 2, tmp_path / "gone"
    login(
        f"case \"$SSH_ORIGINAL_COMMAND\" in *'exec tail'*) if [ ! -e {gone} ]; then touch {gone}; "
        f'eval "$SSH_ORIGINAL_COMMAND" | (head -c {half}; sleep 60); exit; fi;; esac; '
        'eval "$SSH_ORIGINAL_COMMAND"'
    )
    monkeypatch.setattr("rfctl.stack.fetch.STALL_SECONDS", 3.0)
    begin = time.monotonic()
    (found,) = fetch(source(server, remote / "model.gguf"), tmp_path / "here")
    assert found.sha256 == SHA256
    assert gone.exists()
    assert time.monotonic() - begin < 40


@pytest.mark.parametrize(
    "name", [b"../evil", b"/etc/passwd", b"a/../../b", b"C:evil", b"a\nb", b"x.partial", b"."]
)
def test_a_hostile_server_does_not_leave_the_folder(
    server: SshServer, hostile: Callable[[bytes], None], tmp_path: Path, name: bytes
) -> None:
    hostile(b"5\t1\t" + name + b"\0")
    with pytest.raises(RfctlError, match=r"bring\.name-refused"):
        fetch(source(server, Path("/models")), tmp_path / "here")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "answer", [b"Welcome to the server\n", b"x\0", b"", b"-5\t1\tname\0", b"\0" * 5_000_000]
)
def test_an_odd_answer_is_an_error_of_ours(
    server: SshServer, hostile: Callable[[bytes], None], tmp_path: Path, answer: bytes
) -> None:
    hostile(answer)
    with pytest.raises(RfctlError, match=r"bring\.(answer-odd|nothing|too-many)"):
        fetch(source(server, Path("/models")), tmp_path / "here")


def test_a_server_that_tells_no_hash_is_not_believed(
    server: SshServer, hostile: Callable[[bytes], None], tmp_path: Path
) -> None:
    """It lists one empty file, and answers the question for its hash with the same list."""
    hostile(b"0\t1\tempty.txt\0")
    with pytest.raises(RfctlError, match=r"bring\.answer-odd"):
        fetch(source(server, Path("/models")), tmp_path / "here")
    assert not (tmp_path / "here" / "models" / "empty.txt").exists()
    hostile(b"0\t1\ta.txt\x000\t1\tb.txt\0")
    with pytest.raises(RfctlError, match=r"bring\.answer-odd"):
        fetch(source(server, Path("/models")), tmp_path / "here")


def test_sources() -> None:
    assert parse_source("li@gpu:models/a b.gguf") == Source("li@gpu", "models/a b.gguf")
    assert parse_source("gpu:~/m.gguf").path == "m.gguf"
    assert parse_source("root@[fe80::1]:/m/") == Source("root@[fe80::1]", "/m")
    for text in ("model.gguf", "gpu:", "gpu:a\nb", ":x"):
        with pytest.raises(UsageError):
            parse_source(text)


@given(st.text(max_size=30))
def test_any_text_is_a_source_or_a_clear_error(text: str) -> None:
    try:
        found = parse_source(text)
    except UsageError as error:
        assert error.id in ("bring.source-invalid", "tunnel.host-invalid")
    else:
        assert not found.host.startswith("-")
        assert found.path
