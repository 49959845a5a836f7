"""`rfctl model push | ls | show | rm` as a user runs them, against a server on a socket."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from model_file import CHATML, write_gguf
from ollama_server import Keeper

from rfctl.ollama.template import Template

sys.path.append(str(Path(__file__).parent.parent / "converter"))


@pytest.fixture
def server() -> Iterator[Keeper]:
    with Keeper(template=Template(CHATML)) as keeper:
        yield keeper


@pytest.fixture
def run(rfctl: Callable[..., Any], server: Keeper) -> Callable[..., Any]:
    def call(*arguments: str, **options: Any) -> Any:
        return rfctl(
            *arguments,
            env={"RFCTL_OLLAMA_URL": server.url, "RFCTL_RAGFLOW_URL": "http://127.0.0.1:9"},
            **options,
        )

    return call


def test_push_of_a_gguf_tells_what_was_done(run: Callable[..., Any], server: Keeper, tmp_path: Path) -> None:
    write_gguf(tmp_path / "My Model.gguf")
    done = run("model", "push", "My Model.gguf", "--num-ctx", "4096")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith(f"my-model:latest is registered at {server.url} (")
    assert "context 4096" in lines[0]
    assert lines[1:] == [
        "  context 4096: as asked for",
        "  ok: served as: completion",
        "  ok: 6 conversations become the same prompt as the model's own template makes",
        "  ok: a short answer ended by itself after 2 tokens (0.01 s)",
        "  ok: loaded with the stored context of 4096 tokens; a prompt of 24 tokens arrived whole",
        "  ok: an answer ends with <|im_end|>",
    ]
    assert "rfctl chat create" in done.err
    again = run("model", "push", "My Model.gguf", "--num-ctx", "4096", "--json")
    report = json.loads(again.out)
    assert report["unchanged"] is True
    assert report["name"] == "my-model:latest"
    assert report["uploaded"] == 0
    assert [check["verdict"] for check in report["checks"]] == ["passed"] * 5
    assert report["schema_version"] == 1


def test_a_failed_proof_is_exit_code_5(run: Callable[..., Any], server: Keeper, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    server.served_prefix = "<|x|>"
    done = run("model", "push", "m.gguf", "m")
    assert done.code == 5
    assert "failed: the server's prompt differs" in done.out
    assert "rfctl chat create" not in done.err


def test_push_with_an_adapter(run: Callable[..., Any], server: Keeper, golden: Path, tmp_path: Path) -> None:
    """Another adapter, or none, is another model: what was kept of the base's push is not taken for it."""
    import numpy as np
    import safetensor
    import tiny

    tiny.make_model(tmp_path / "Tiny-7M", golden / "converter" / "tokenizers" / "gpt2")
    module = "base_model.model.model.layers.0.self_attn.o_proj"
    for name, value in (("one", 0.5), ("two", 0.25)):
        folder = tmp_path / name
        folder.mkdir()
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "Tiny-7M"}
        (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
        tensors = {
            f"{module}.lora_A.weight": ("F32", np.full((2, 64), value, np.float32)),
            f"{module}.lora_B.weight": ("F32", np.full((64, 2), value, np.float32)),
        }
        safetensor.write_safetensors(folder / "adapter_model.safetensors", tensors)
    digests = []
    for name, *options in (("plain",), ("one", "--adapter", "one"), ("two", "--adapter", "two")):
        done = run(
            "model", "push", "Tiny-7M", name, *options, "--template", "chatml", "--no-verify", "--json"
        )
        assert done.code == 0, done.err
        digests.append(json.loads(done.out)["source_digest"])
    assert len(set(digests)) == 3
    absent = run("model", "push", "Tiny-7M", "four", "--adapter", "absent", "--no-verify")
    assert (absent.code, absent.err.startswith("error[adapter.not-found]")) == (2, True), absent.err


def test_two_pushes_of_one_directory(
    run: Callable[..., Any], environment: dict[str, str], server: Keeper, golden: Path, tmp_path: Path
) -> None:
    """One of two at the same time is told so; it takes nothing away from the other, which arrives whole."""
    import subprocess

    import tiny

    tiny.make_model(tmp_path / "Tiny-7M", golden / "converter" / "tokenizers" / "gpt2")
    command = [
        sys.executable,
        "-m",
        "rfctl.cli.main",
        "model",
        "push",
        "Tiny-7M",
        "--template",
        "chatml",
        "-q",
    ]
    env = {**environment, "RFCTL_OLLAMA_URL": server.url, "RFCTL_RAGFLOW_URL": "http://127.0.0.1:9"}
    both = [
        subprocess.Popen(
            [*command, "--no-verify", *extra], cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True
        )
        for extra in ((), ("--system", "s"))
    ]
    errors = [process.communicate(timeout=60)[1] for process in both]
    assert 0 in [process.returncode for process in both], errors
    for error in errors:
        assert not error or "error[ollama.push-running]" in error
    assert not list((tmp_path / "home").rglob("*.gguf"))


def test_push_from_the_hub(rfctl: Callable[..., Any], server: Keeper, golden: Path, tmp_path: Path) -> None:
    """A repository instead of a directory, and an adapter that names its base: the models of their names."""
    import numpy as np
    import safetensor
    import tiny
    from hub_server import HubServer

    tiny.make_model(tmp_path / "base", golden / "converter" / "tokenizers" / "gpt2")
    adapter = tmp_path / "My-Tune"
    adapter.mkdir()
    module = "base_model.model.model.layers.0.self_attn.o_proj"
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "org/Tiny-7M"}
    (adapter / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    tensors = {
        f"{module}.lora_A.weight": ("F32", np.ones((2, 64), np.float32)),
        f"{module}.lora_B.weight": ("F32", np.ones((64, 2), np.float32)),
    }
    safetensor.write_safetensors(adapter / "adapter_model.safetensors", tensors)
    with HubServer({"org/Tiny-7M": tmp_path / "base"}) as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "RFCTL_OLLAMA_URL": server.url}
        how = ("--template", "chatml", "--no-verify", "--json")
        digests = {}
        for source in ("org/Tiny-7M", "My-Tune"):
            done = rfctl("model", "push", source, *how, env=env)
            assert done.code == 0, done.err
            report = json.loads(done.out)
            digests[report["name"]] = report["source_digest"]
        missing = rfctl("model", "push", "org/nothing", *how, env=env)
    assert list(digests) == ["tiny-7m:latest", "my-tune:latest"]
    assert len(set(digests.values())) == 2
    assert missing.code in (1, 4)
    assert '"id": "hub.' in missing.err


@pytest.mark.parametrize(
    ("arguments", "code", "id"),
    [
        (("absent",), 2, "ollama.push-source"),
        (("m.gguf", "--quantize", "Q4_K_M"), 2, "ollama.push-quantize-gguf"),
        (("m.gguf", "--adapter", "none"), 2, "adapter.base-file"),
        (("adapter.gguf",), 2, "ollama.push-adapter-file"),
        (("piece.gguf",), 2, "ollama.push-piece"),
        (("m.gguf", "bad name"), 2, "store.name-invalid"),
        (("m.gguf", "--template", "nonsense"), 2, "ollama.family-unknown"),
        (("m.gguf", "--num-ctx", "999999"), 2, "ollama.num-ctx"),
        (("m.gguf", "--modelfile", "Modelfile"), 2, "ollama.modelfile-other"),
        (("m.gguf", "--modelfile", "Broken"), 2, "ollama.modelfile-syntax"),
        (("empty.gguf",), 1, "gguf.magic"),
    ],
)
def test_refusals(
    run: Callable[..., Any], tmp_path: Path, arguments: tuple[str, ...], code: int, id: str
) -> None:
    write_gguf(tmp_path / "m.gguf")
    write_gguf(tmp_path / "adapter.gguf", kind="adapter")
    write_gguf(tmp_path / "piece.gguf", pieces=3)
    (tmp_path / "empty.gguf").write_bytes(b"")
    (tmp_path / "Modelfile").write_text("FROM ./other.gguf\n")
    (tmp_path / "Broken").write_text("FROM .\nNONSENSE\n")
    done = run("model", "push", *arguments)
    assert (done.code, done.err.partition("[")[2].partition("]")[0]) == (code, id), done.err
    assert len(done.err.splitlines()) <= 8


def test_a_modelfile_on_the_command_line(run: Callable[..., Any], server: Keeper, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./m.gguf\nSYSTEM file\nPARAMETER temperature 0.2\n")
    done = run("model", "push", "m.gguf", "m", "--modelfile", "Modelfile", "--system", "flag", "--no-verify")
    assert done.code == 0, done.err
    body = server.models["m:latest"]["body"]
    assert body["system"] == "flag"
    assert body["parameters"]["temperature"] == 0.2


def test_ls_show_and_rm(run: Callable[..., Any], server: Keeper, tmp_path: Path) -> None:
    empty = run("model", "ls")
    assert (empty.code, empty.out) == (0, "")
    write_gguf(tmp_path / "m.gguf")
    assert run("model", "push", "m.gguf", "m", "--no-verify").code == 0
    listed = run("model", "ls")
    assert listed.out.splitlines()[0].split() == ["NAME", "SIZE", "FOR", "TYPE", "CONTEXT", "DIGEST"]
    assert listed.out.splitlines()[1].startswith("m:latest")
    assert [entry["name"] for entry in json.loads(run("model", "ls", "--json").out)] == ["m:latest"]
    shown = json.loads(run("model", "show", "m:latest", "--json").out)
    assert shown["capabilities"] == ["completion"]
    assert run("model", "show", "m:latest", "--modelfile").out.startswith("FROM /store/blobs/sha256-")
    assert "m:latest" in run("model", "show", "m:latest").out
    refused = run("model", "rm", "m")
    assert refused.code == 7
    assert "m:latest" in server.models
    assert run("model", "rm", "m", "--yes").code == 0
    assert not server.models
    gone = run("model", "rm", "m", "--yes")
    assert gone.code == 1
    assert "error[ollama.model-missing]" in gone.err


def test_push_of_a_directory_converts_once(
    run: Callable[..., Any], server: Keeper, golden: Path, tmp_path: Path, home: Path
) -> None:
    builder = pytest.importorskip("builder")
    folder = builder.build(
        golden, json.loads((golden / "converter" / "cases" / "llama2-spm.json").read_text()), tmp_path
    )
    done = run("model", "push", str(folder), "tiny", "--no-verify", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["source_digest"] in server.blobs
    left = [path.suffix for path in (home / "rfctl" / "cache" / "push").iterdir()]
    assert left == [".header"]
    server.requests.clear()
    again = json.loads(run("model", "push", str(folder), "tiny", "--no-verify", "--json").out)
    assert again["unchanged"] is True
    assert {request.path for request in server.requests} == {"/api/version", "/api/tags", "/api/show"}
    # A second name and other settings need no bytes either; a changed directory does.
    other = json.loads(
        run("model", "push", str(folder), "two", "--num-ctx", "64", "--no-verify", "--json").out
    )
    assert (other["unchanged"], other["uploaded"]) == (False, 0)
    config = folder / "config.json"
    os.utime(config, (1, 1))
    changed = json.loads(run("model", "push", str(folder), "tiny", "--no-verify", "--json").out)
    assert changed["uploaded"] == 0  # the same bytes came out


def test_push_of_a_directory_that_will_not_work(
    run: Callable[..., Any], server: Keeper, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["NoSuchForCausalLM"]}')
    done = run("model", "push", str(folder))
    assert done.code == 5, done.err
    assert "error[ollama.push-check]" in done.err
    assert not server.blobs


def test_a_model_of_somebody_else_is_not_replaced_without_consent(
    run: Callable[..., Any], server: Keeper, tmp_path: Path
) -> None:
    write_gguf(tmp_path / "m.gguf")
    server.models["m:latest"] = {"digest": "e" * 64, "served": "0", "body": {}}
    refused = run("model", "push", "m.gguf", "m", "--no-verify")
    assert refused.code == 7
    assert "error[cli.needs-yes]" in refused.err
    assert server.models["m:latest"]["digest"] == "e" * 64
    assert run("model", "push", "m.gguf", "m", "--no-verify", "--yes").code == 0
    assert run("model", "push", "m.gguf", "m", "--no-verify", "--num-ctx", "64").code == 0


def test_help_is_in_both_languages(run: Callable[..., Any]) -> None:
    english, chinese = run("model", "push", "--help"), run("model", "push", "--lang", "zh", "--help")
    for option in ("--quantize", "--num-ctx", "--system", "--template", "--modelfile", "--no-verify"):
        assert option in english.out
        assert option in chinese.out
    assert "上下文" in chinese.out


def test_a_configured_server_needs_no_engine_and_gets_the_key(
    rfctl: Callable[..., Any], server: Keeper, home: Path
) -> None:
    done = rfctl("model", "ls", env={"OLLAMA_HOST": server.url, "OLLAMA_API_KEY": "tiny-key"})
    assert done.code == 0, done.err
    assert not (home / "rfctl" / "data" / "engine").exists()
    headers = {name.lower(): value for name, value in server.requests[0].headers.items()}
    assert headers["authorization"] == "Bearer tiny-key"


def test_a_server_of_an_unknown_version_is_a_warning(
    run: Callable[..., Any], server: Keeper, golden: Path, tmp_path: Path
) -> None:
    builder = pytest.importorskip("builder")
    server.version = "0.0.1"
    folder = builder.build(
        golden, json.loads((golden / "converter" / "cases" / "llama2-spm.json").read_text()), tmp_path
    )
    done = run("model", "push", str(folder), "tiny", "--no-verify")
    assert done.code == 0, done.err
    assert "It is not known whether the server (version 0.0.1) can load" in done.err


def test_show_says_where_a_model_came_from(
    run: Callable[..., Any], server: Keeper, golden: Path, tmp_path: Path
) -> None:
    builder = pytest.importorskip("builder")
    folder = builder.build(
        golden, json.loads((golden / "converter" / "cases" / "llama2-spm.json").read_text()), tmp_path
    )
    report = json.loads(run("model", "push", str(folder), "tiny", "--no-verify", "--json").out)
    origin = json.loads(run("model", "show", "tiny:latest", "--json").out)["provenance"]
    assert origin["path"] == str(folder.resolve())
    assert origin["source_digest"] == report["source_digest"]
    assert origin["reference"] == "llama.cpp b11434"
    assert origin["outtype"] == "auto"
    assert str(folder.resolve()) in run("model", "show", "tiny:latest").out
    # What somebody else put under the name has another origin.
    server.models["tiny:latest"]["digest"] = "e" * 64
    assert json.loads(run("model", "show", "tiny:latest", "--json").out)["provenance"] == {}


def test_show_of_a_file_needs_no_server(rfctl: Callable[..., Any], tmp_path: Path) -> None:
    write_gguf(tmp_path / "my model.gguf", name="Mine", context=4096)
    env = {"RFCTL_OLLAMA_URL": "http://127.0.0.1:9"}
    shown = rfctl("model", "show", "my model.gguf", env=env)
    assert shown.code == 0, shown.err
    rows = dict(line.split(maxsplit=1) for line in shown.out.splitlines())
    assert (rows["NAME"], rows["ARCHITECTURE"], rows["PARAMETERS"]) == ("Mine", "llama", "320")
    assert (rows["TYPE"], rows["CONTEXT"]) == ("1 F32", "4096")
    assert 'rfctl model push "my model.gguf" NAME' in shown.err
    report = json.loads(rfctl("model", "show", "my model.gguf", "--json", env=env).out)
    assert report["types"] == {"F32": 1}
    assert report["keys"]["general.name"] == "Mine"
    assert report["keys"]["tokenizer.ggml.tokens"] == ["<unk>", "<|im_start|>", "<|im_end|>", "a", "b"]
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "my model.gguf").read_bytes()[:100])
    broken = rfctl("model", "show", "cut.gguf", env=env)
    assert (broken.code, broken.err.startswith("error[gguf.")) == (1, True), broken.err
