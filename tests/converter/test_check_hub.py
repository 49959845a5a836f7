"""A check of a hub repository, against a server that speaks the protocol: what is read, and every refusal."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer
from made_model import Made, make_llama, make_qwen

from rfctl.cli.main import execute
from rfctl.converter.check import check
from rfctl.converter.check_hub import HubModel, fetch_model
from rfctl.converter.hub_reader import HubReader, RepoName, parse_repo
from rfctl.core.error import RfctlError

TOKEN = "hf_" + "a" * 34
NAME = "org/Made-1B"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    made = make_llama()
    made.tensors["model.embed_tokens.weight"] = ("BF16", [200_000, 64])
    made.config["vocab_size"] = 200_000
    made.split("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    made.files |= {"README.md": "# made\n", "generation_config.json": {"temperature": 0.5}}
    return made.write(tmp_path / "repo")


@pytest.fixture
def hub(repo: Path) -> Iterator[HubServer]:
    with HubServer({NAME: repo}) as server:
        yield server


@pytest.fixture(autouse=True)
def no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("RFCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RFCTL_LANG", "en")


def fetch(
    hub: HubServer, folder: Path, *, repo: str = NAME, token: str = "", seconds: float = 30
) -> HubModel:
    name = parse_repo(repo)
    assert name is not None
    with HubReader(name, endpoint=hub.url, token=token, seconds=seconds) as reader:
        return fetch_model(reader, folder / "fetched")


def refuse(hub: HubServer, folder: Path, **options: Any) -> RfctlError:
    with pytest.raises(RfctlError) as caught:
        fetch(hub, folder, **options)
    text = caught.value.text("zh").message + caught.value.text("en").message + caught.value.text("en").next
    assert TOKEN not in text and "{" not in text
    assert caught.value.text("en").next
    return caught.value


def test_the_report_is_that_of_the_directory(hub: HubServer, repo: Path, tmp_path: Path) -> None:
    model = fetch(hub, tmp_path)
    local = check(repo)
    remote = check(model.path, sizes=model.sizes, label="x")
    assert local.will_work and remote.will_work
    for name in ("architecture", "parameter_count", "dtype_bytes", "tokenizer", "output_bytes", "verdicts"):
        assert getattr(local, name) == getattr(remote, name), name
    assert [finding.id for finding in local.findings] == [finding.id for finding in remote.findings]
    assert model.commit == hub.commit(NAME)
    weights = sum(file.stat().st_size for file in repo.glob("*.safetensors"))
    assert weights < model.download_bytes < weights + 100_000


def test_no_weight_is_read(hub: HubServer, repo: Path, tmp_path: Path) -> None:
    model = fetch(hub, tmp_path)
    weights = sum(file.stat().st_size for file in repo.glob("*.safetensors"))
    assert weights > 25_000_000
    assert model.bytes_read == hub.sent < 200_000
    assert model.requests == len(hub.requests)
    assert not [request for request in hub.requests if "README" in request.path]
    assert all(
        request.range
        for request in hub.requests
        if ".safetensors" in request.path and "json" not in request.path
    )


def test_a_server_that_ignores_ranges_is_cut_short(hub: HubServer, tmp_path: Path) -> None:
    hub.ranges = False
    model = fetch(hub, tmp_path)
    assert check(model.path, sizes=model.sizes).will_work
    assert model.bytes_read < 400_000


def test_a_long_header_is_fetched_in_two_parts(tmp_path: Path) -> None:
    made = make_llama()
    made.config["num_hidden_layers"] = 200
    for layer in range(2, 200):
        for name in [name for name in made.tensors if ".layers.0." in name]:
            made.tensors[name.replace(".0.", f".{layer}.")] = made.tensors[name]
    folder = made.write(tmp_path / "deep")
    with HubServer({NAME: folder}) as hub:
        model = fetch(hub, tmp_path)
        assert check(model.path, sizes=model.sizes).will_work
        weights = [
            request for request in hub.requests if request.status == 206 and "model.safe" in request.path
        ]
        assert len(weights) == 2


def test_the_token_goes_to_the_endpoint_and_not_to_where_it_redirects(hub: HubServer, tmp_path: Path) -> None:
    hub.token = TOKEN
    fetch(hub, tmp_path, token=TOKEN)
    by_place = {("/cdn/" in request.path, request.token) for request in hub.requests}
    assert by_place == {(False, TOKEN), (True, "")}


def test_refusals_say_which_it_is(hub: HubServer, tmp_path: Path) -> None:
    assert refuse(hub, tmp_path, repo="org/other").id == "hub.repo-private"
    assert refuse(hub, tmp_path, repo="org/other", token=TOKEN).id == "hub.repo-missing"
    assert refuse(hub, tmp_path, repo=f"{NAME}@v9").id == "hub.revision-missing"
    hub.token = TOKEN
    gated = refuse(hub, tmp_path)
    assert (gated.id, gated.exit_code) == ("hub.gated", 4)
    assert refuse(hub, tmp_path, token=TOKEN[:-1] + "b").id == "hub.gated"


def test_a_failure_that_passes_is_asked_again(hub: HubServer, tmp_path: Path) -> None:
    hub.broken = 2
    assert fetch(hub, tmp_path).sizes


def test_a_failure_that_stays_ends(hub: HubServer, tmp_path: Path) -> None:
    hub.broken = 10_000
    error = refuse(hub, tmp_path)
    assert (error.id, error.exit_code) == ("hub.failing", 3)
    assert len(hub.requests) == 3


def test_answers_that_break_off(hub: HubServer, tmp_path: Path) -> None:
    hub.cut = 300
    assert refuse(hub, tmp_path).id == "hub.unreachable"


def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with (
        HubReader(RepoName(NAME), endpoint=url, seconds=20) as reader,
        pytest.raises(RfctlError) as caught,
    ):
        reader.list_files()
    assert (caught.value.id, caught.value.exit_code) == ("hub.unreachable", 3)


def test_a_silent_server_ends_with_the_deadline(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (
            HubReader(RepoName(NAME), endpoint=url, seconds=0.5) as reader,
            pytest.raises(RfctlError) as caught,
        ):
            reader.list_files()
    assert caught.value.id == "hub.unreachable"


@pytest.mark.parametrize("url", ["ftp://example.org", "no address", "http://", "http://[::1", "file:///etc"])
def test_an_endpoint_that_is_none(url: str) -> None:
    with pytest.raises(RfctlError) as caught:
        HubReader(RepoName(NAME), endpoint=url)
    assert caught.value.id == "hub.endpoint-invalid"


@pytest.mark.parametrize(
    ("text", "id", "revision"),
    [
        ("Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-1.5B", "main"),
        ("hf://org/name@refs/pr/1", "org/name", "refs/pr/1"),
        ("org/name@v1.0", "org/name", "v1.0"),
    ],
)
def test_names_of_repositories(text: str, id: str, revision: str) -> None:
    assert parse_repo(text) == RepoName(id, revision)


@pytest.mark.parametrize(
    "text", ["name", "../name", "a/b/c", "/a/b", "a/..", "a/b@", "a/b c", "C:\\a/b", "a/b@x?y"]
)
def test_what_is_no_repository(text: str) -> None:
    assert parse_repo(text) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda made: made.files.update({"model.safetensors.index.json": b"[" * 100_000}),
        lambda made: made.files.update({"config.json": b"\xff"}),
        lambda made: made.files.update({"tokenizer_config.json": b"{"}),
    ],
)
def test_damaged_files_are_findings(damage: Any, tmp_path: Path) -> None:
    made: Made = make_qwen()
    made.config = {} if made.files.get("config.json") else made.config
    damage(made)
    if "config.json" in made.files:
        made.config = {}
    folder = made.write(tmp_path / "damaged")
    with HubServer({NAME: folder}) as hub:
        model = fetch(hub, tmp_path)
        report = check(model.path, sizes=model.sizes)
        assert not report.will_work and report.errors


def test_a_header_that_promises_too_much_costs_little(tmp_path: Path) -> None:
    folder = make_llama().write(tmp_path / "damaged")
    with (folder / "model.safetensors").open("r+b") as file:
        file.write((90_000_000).to_bytes(8, "little"))
        file.truncate(100_000_000)
    with HubServer({NAME: folder}) as hub:
        model = fetch(hub, tmp_path)
        report = check(model.path, sizes=model.sizes)
        assert "model.shard-malformed" in [finding.id for finding in report.errors]
        assert model.bytes_read < 20_000_000


def test_the_command(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hub.token = TOKEN
    hub.prefix = "/mirror"
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert execute(["model", "check", NAME, "--json"]) == 0
    captured = capsys.readouterr()
    assert TOKEN not in captured.out + captured.err
    document = json.loads(captured.out)
    assert document["path"] == f"{NAME}@{hub.commit(NAME)[:12]}"
    assert document["hub"] == {
        "repo": NAME,
        "revision": "main",
        "commit": hub.commit(NAME),
        "endpoint": hub.url,
        "download_bytes": document["hub"]["download_bytes"],
        "bytes_read": hub.sent,
        "requests": len(hub.requests),
    }
    assert execute(["model", "check", NAME, "--revision", hub.commit(NAME)]) == 0
    assert f"{NAME}@" in capsys.readouterr().out
    assert execute(["model", "check", f"{NAME}@nope"]) == 1
    assert "hub.revision-missing" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_" + "b" * 34)
    assert execute(["model", "check", NAME]) == 4
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert execute(["model", "check", NAME]) == 1
    assert "hub.offline" in capsys.readouterr().err


def test_a_finding_names_the_repository_and_not_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = make_llama()
    made.split("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    folder = made.write(tmp_path / "part")
    (folder / "model-00002-of-00002.safetensors").unlink()
    with HubServer({NAME: folder}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        assert execute(["model", "check", NAME]) == 5
    out = capsys.readouterr().out
    assert "model.shard-missing" in out and f"into {NAME}@" in out
    assert "rfctl-check-" not in out


def test_the_saved_token_is_found(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hub.token = TOKEN
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(TOKEN + "\n", "utf-8")
    assert execute(["model", "check", NAME]) == 0
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    assert execute(["model", "check", NAME]) == 4
    capsys.readouterr()


def test_a_directory_comes_first(
    repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org").mkdir()
    repo.rename(tmp_path / NAME)
    monkeypatch.chdir(tmp_path)
    assert execute(["model", "check", NAME]) == 0
    assert execute(["model", "check", NAME, "--revision", "v1"]) == 2
    assert "check.revision-local" in capsys.readouterr().err
