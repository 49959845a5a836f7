"""`rfctl tunnel` against a real sshd: forwards both ways, a killed ssh comes back, nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
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
from ssh_server import SshServer, free_port, is_open, run_server

from rfctl.core.data import data_folder
from rfctl.core.error import UsageError
from rfctl.stack.tunnel import Forward, Place, Plan, Progress, State, check_host, parse_forward, ssh_command

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    yield from run_server(tmp_path_factory.mktemp("sshd"))


class Echo:
    """Answers every line that it gets; stands for Ollama."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"you said " + connection.recv(100))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def tunnel(rfctl: Run, server: SshServer) -> Iterator[Run]:
    def run(*arguments: str, host: str = "cloud", **options: Any) -> Any:
        more = ("--ssh-config", str(server.config)) if arguments[0] == "open" else ()
        words = (arguments[0], host, *arguments[1:]) if arguments[0] == "open" else arguments
        return rfctl("tunnel", *words, *more, **options)

    yield run
    rfctl("tunnel", "close", "--all")


def ask(port: int, deadline: float = 10) -> bytes:
    """One line through the tunnel; waits until it stands."""
    end = time.monotonic() + deadline
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(b"hello")
                if answer := connection.recv(100):
                    return answer
        except OSError:
            pass
        if time.monotonic() > end:
            raise AssertionError(f"nothing answers on {port}")
        time.sleep(0.05)


def state(run: Run) -> dict[str, Any]:
    (found,) = json.loads(run("status", "--json").out)
    return dict(found)


def wait_for(run: Run, wanted: str, *, deadline: float = 20, **more: object) -> dict[str, Any]:
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        found = state(run)
        if found["state"] == wanted and all(found[name] == value for name, value in more.items()):
            return found
        time.sleep(0.1)
    raise AssertionError(f"not {wanted}: {found}")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"


def test_a_tunnel_stands_comes_back_and_goes(tunnel: Run, echo: Echo) -> None:
    port = free_port()
    opened = tunnel("open", "--map", f"{port}:{echo.port}")
    assert (opened.code, opened.out) == (
        0,
        f"Tunnel cloud to cloud is open\n  127.0.0.1:{port} here leads to 127.0.0.1:{echo.port} of cloud\n",
    )
    assert ask(port) == b"you said hello"
    again = tunnel("open", "--map", f"{port}:{echo.port}", "--json")
    assert json.loads(again.out)["unchanged"] is True
    other = tunnel("open", "--map", str(echo.port))
    assert (other.code, other.err.splitlines()[0][:21]) == (2, "error[tunnel.exists]:")

    first = state(tunnel)
    assert (first["state"], first["restarts"]) == ("up", 0)
    os.kill(first["ssh_pid"], signal.SIGKILL)
    second = wait_for(tunnel, "up", restarts=1)
    assert second["ssh_pid"] != first["ssh_pid"]
    assert second["pid"] == first["pid"]
    assert ask(port) == b"you said hello"

    closed = tunnel("close", "cloud")
    assert (closed.code, closed.out) == (0, "Tunnel cloud is closed\n")
    assert not is_alive(second["pid"])
    assert not is_alive(second["ssh_pid"])
    assert not is_open(port)
    assert tunnel("status").err == "There is no tunnel\n"
    assert tunnel("close", "cloud").code == 2


def test_the_other_way(tunnel: Run, echo: Echo) -> None:
    port = free_port()
    opened = tunnel("open", "--map", f"{port}:{echo.port}", "--reverse", "--name", "back")
    assert opened.code == 0, opened.err
    assert f"127.0.0.1:{port} of cloud leads to 127.0.0.1:{echo.port} here" in opened.out
    assert ask(port) == b"you said hello"


def test_a_watcher_that_was_killed_is_seen_and_replaced(tunnel: Run, echo: Echo) -> None:
    port = free_port()
    assert tunnel("open", "--map", f"{port}:{echo.port}").code == 0
    found = state(tunnel)
    os.kill(found["pid"], signal.SIGKILL)
    assert wait_for(tunnel, "down")["restarts"] == 0
    # Its ssh still holds the port; the next open ends it.
    assert is_alive(found["ssh_pid"])
    assert tunnel("open", "--map", f"{port}:{echo.port}").code == 0
    assert not is_alive(found["ssh_pid"])
    assert ask(port) == b"you said hello"


def test_a_server_that_comes_back_is_reached_again(
    rfctl: Run, tmp_path_factory: pytest.TempPathFactory, echo: Echo
) -> None:
    servers = run_server(tmp_path_factory.mktemp("sshd"))
    server = next(servers)
    port = free_port()
    try:
        opened = rfctl(
            "tunnel", "open", "cloud", "--map", f"{port}:{echo.port}", "--ssh-config", str(server.config)
        )
        assert opened.code == 0, opened.err

        def status(*arguments: str) -> Any:
            return rfctl("tunnel", *arguments)

        server.stop()
        os.kill(state(status)["ssh_pid"], signal.SIGKILL)
        waiting = wait_for(status, "waiting")
        assert "refused" in waiting["detail"] or waiting["restarts"] == 0
        server.start()
        assert wait_for(status, "up")["restarts"] >= 1
        assert ask(port) == b"you said hello"
    finally:
        rfctl("tunnel", "close", "--all")
        next(servers, None)


def test_a_port_that_is_taken_is_named_and_nothing_stays(tunnel: Run, echo: Echo) -> None:
    done = tunnel("open", "--map", f"{free_port()}:1", "--map", f"{echo.port}:11434")
    assert done.code == 1
    assert done.err.splitlines()[-4] == (
        "error[tunnel.forward-refused]: cloud was reached, but a port could not be opened: "
        f"bind [127.0.0.1]:{echo.port}: Address already in use"
    )
    assert tunnel("status").err == "There is no tunnel\n"


def test_an_address_of_another_machine_is_named(tunnel: Run) -> None:
    done = tunnel("open", "--map", f"{free_port()}:1", "--bind", "203.0.113.1", "--i-know")
    assert (done.code, done.err.splitlines()[1][:60]) == (
        1,
        "error[tunnel.no-address]: 203.0.113.1 is no address of this ",
    )


def test_a_service_that_does_not_answer_is_said_at_once(tunnel: Run, echo: Echo) -> None:
    """ssh opens the port whether or not somebody listens on the other side."""
    nobody = free_port()
    maps = ("--map", f"{free_port()}:{echo.port}", "--map", f"{free_port()}:{nobody}")
    done = tunnel("open", *maps)
    assert done.code == 0, done.err
    said = [line for line in done.err.splitlines() if line.startswith("Nothing answers")]
    assert said == [
        f"Nothing answers at 127.0.0.1:{nobody} of cloud yet: its service is not running, or the server "
        "forbids forwarding"
    ]
    again = json.loads(tunnel("open", *maps, "--json").out)
    assert [one["target_port"] for one in again["silent"]] == [nobody]
    assert again["unchanged"] is True


def test_a_server_that_is_not_there_and_one_that_is_not_known(
    tunnel: Run, rfctl: Run, server: SshServer, tmp_path: Path
) -> None:
    text = server.config.read_text(encoding="ascii")
    config = tmp_path / "config"
    config.write_text(text.replace(f"Port {server.port}", f"Port {free_port()}"), encoding="ascii")
    gone = rfctl("tunnel", "open", "cloud", "--ssh-config", str(config))
    assert gone.code == 3
    assert "Connection refused" in gone.err
    config.write_text(text.replace(f"{server.folder}/known", f"{tmp_path}/nobody"), encoding="ascii")
    unknown = rfctl("tunnel", "open", "cloud", "--ssh-config", str(config))
    assert (unknown.code, "error[tunnel.host-key]" in unknown.err) == (4, True)
    config.write_text(text.replace(f"{server.folder}/client", f"{server.folder}/host"), encoding="ascii")
    denied = rfctl("tunnel", "open", "cloud", "--ssh-config", str(config))
    assert (denied.code, "error[tunnel.denied]" in denied.err) == (4, True)
    assert f"ssh-copy-id -F {config} cloud" in denied.err
    assert rfctl("tunnel", "status").err == "There is no tunnel\n"


def test_a_server_that_would_open_the_port_to_everybody_is_refused(
    rfctl: Run, tmp_path: Path, echo: Echo
) -> None:
    """GatewayPorts yes overrides the address that was asked for."""
    servers = run_server(tmp_path, gateway_ports="yes")
    server = next(servers)
    port = free_port()
    try:
        done = rfctl(
            *("tunnel", "open", "cloud", "--reverse", "--map", f"{port}:{echo.port}"),
            *("--ssh-config", str(server.config)),
        )
        assert (done.code, "error[tunnel.gateway-ports]" in done.err) == (1, True)
        assert "on 127.0.0.1 only" in done.err
        assert rfctl("tunnel", "status").err == "There is no tunnel\n"
        assert not is_open(port)
    finally:
        rfctl("tunnel", "close", "--all")
        next(servers, None)


def test_nothing_but_loopback_without_a_word(rfctl: Run) -> None:
    for address in ("0.0.0.0", "192.168.1.5", "::"):
        done = rfctl("tunnel", "open", "cloud", "--bind", address)
        assert (done.code, done.err.splitlines()[0]) == (
            7,
            f"error[tunnel.exposed]: {address} can be reached by other machines",
        )


@pytest.mark.parametrize(
    "host",
    [
        "-oProxyCommand=touch x",
        "a b",
        "a;b",
        "$(id)",
        "`id`",
        "",
        "a@b@c",
        "a@-b",
        "a\nb",
        "u@[::1",
        "x|y",
        "a/b",
    ],
)
def test_a_host_is_never_an_option_or_a_shell(host: str) -> None:
    with pytest.raises(UsageError, match=r"tunnel\.host-invalid"):
        check_host(host)


@pytest.mark.parametrize("host", ["cloud", "li@gpu-1.example.com", "10.0.0.7", "root@[fe80::1]", "my_host"])
def test_real_hosts_are_hosts(host: str) -> None:
    assert check_host(host) == host
    command = ssh_command(Plan("x", host, (parse_forward("ollama"),)))
    assert command[-2:] == ["--", host]
    assert command[command.index("-L") + 1] == "127.0.0.1:11434:127.0.0.1:11434"
    assert "StrictHostKeyChecking=no" not in " ".join(command)


@given(st.text(max_size=40))
def test_any_text_is_a_forward_or_a_clear_error(text: str) -> None:
    try:
        forward = parse_forward(text)
    except UsageError as error:
        assert error.id == "tunnel.map-invalid"
    else:
        assert forward.bind == "127.0.0.1"
        assert 0 < forward.port < 65536
        assert 0 < forward.target_port < 65536
        assert not forward.target.startswith("-")
        assert len(str(forward).split()) == 1


def test_maps() -> None:
    assert parse_forward("15000:11434") == Forward("127.0.0.1", 15000, "127.0.0.1", 11434)
    assert parse_forward("18080:rag.internal:ragflow") == Forward("127.0.0.1", 18080, "rag.internal", 9380)
    assert parse_forward("web", is_reverse=True).argument == ("-R", "127.0.0.1:8080:127.0.0.1:8080")


def test_the_unit_holds_a_tunnel_as_we_do() -> None:
    text = (data_folder("deploy") / "tunnel" / "rfctl-tunnel.service").read_text(encoding="ascii")
    words = next(line for line in text.splitlines() if line.startswith("ExecStart=")).split()
    ours = ssh_command(Plan("x", "%i", (parse_forward("ollama"), parse_forward("ragflow"))))
    options = {word for word in ours if word.endswith(("=yes", "=15", "=3"))} - {"ConnectTimeout=15"}
    assert options <= set(words)
    assert words[-2:] == ours[-2:] == ["--", "%i"]
    assert [words[index + 1] for index, word in enumerate(words) if word == "-L"] == [
        ours[index + 1] for index, word in enumerate(ours) if word == "-L"
    ]


def test_progress_waits_for_every_remote_forward() -> None:
    progress = Progress([parse_forward("ollama", is_reverse=True), parse_forward("web", is_reverse=True)])
    assert not progress.feed("debug1: Entering interactive session.\r\n")
    assert not progress.feed(
        "debug1: remote forward success for: listen 127.0.0.1:11434, connect 127.0.0.1:11434"
    )
    assert progress.feed("debug1: remote forward success for: listen 127.0.0.1:8080, connect 127.0.0.1:8080")
    assert progress.detail == ""
    progress.feed("client_loop: send disconnect: Broken pipe\r\n")
    assert progress.detail == "client_loop: send disconnect: Broken pipe"


@given(
    st.one_of(
        st.binary(max_size=80), st.just(b'{"plan": {"forwards": [{}]}}'), st.just(b"[1]"), st.just(b"{}")
    )
)
def test_a_state_file_of_anybody_is_no_state(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    place = Place(tmp_path_factory.getbasetemp(), "x")
    place.state_file.write_bytes(data)
    assert place.read() is None
    state = State(Plan("x", "cloud", (parse_forward("ollama"),)), "up", 1, 2, 3, 4.5, "…")
    place.write(state)
    assert place.read() == state
    assert place.state_file.stat().st_mode & 0o777 == 0o600


def test_without_ssh_the_command_says_so(rfctl: Run, tmp_path: Path) -> None:
    done = rfctl("tunnel", "open", "cloud", env={"PATH": str(tmp_path)})
    assert (done.code, done.err.splitlines()[0]) == (2, "error[tunnel.no-ssh]: The program ssh was not found")


def test_an_interrupted_open_leaves_nothing(
    server: SshServer, environment: dict[str, str], tmp_path: Path
) -> None:
    """A server that accepts and says nothing: Ctrl-C while ssh waits for it."""

    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = tmp_path / "config"
        text = server.config.read_text(encoding="ascii")
        config.write_text(
            text.replace(f"Port {server.port}", f"Port {silent.getsockname()[1]}"), encoding="ascii"
        )
        command = [
            sys.executable,
            "-m",
            "rfctl.cli.main",
            "tunnel",
            "open",
            "cloud",
            "--ssh-config",
            str(config),
        ]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, encoding="utf-8")
        folder = Path(environment["RFCTL_HOME"]) / "data" / "tunnel"
        end = time.monotonic() + 15
        pids: list[int] = []
        while time.monotonic() < end and not all(pids or [0]):
            found = Place(folder, "cloud").read()
            pids = [found.pid, found.ssh_pid] if found else []
            time.sleep(0.05)
        assert all(pids), "the watcher did not start"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert not [pid for pid in pids if is_alive(pid)]
        assert Place(folder, "cloud").read() is None
