"""What a push does about prompts: formats, stops, the guesses of servers, and what differs afterwards."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from model_file import CHATML, write_gguf
from ollama_server import Keeper, load_exchanges
from push_bench import MESSAGES, ids, keeper

from rfctl.core.error import RfctlError
from rfctl.core.gguf_header import read_header
from rfctl.core.progress import SILENT
from rfctl.ollama.blob import Content
from rfctl.ollama.candidate import read_candidate
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.modelfile import parse_modelfile
from rfctl.ollama.proof import Verdict
from rfctl.ollama.push import push
from rfctl.ollama.recipe import Wishes, content_of, decide, pad_template
from rfctl.ollama.template import Template, render


def test_a_wrong_prompt_is_found_and_tried_again(tmp_path: Path) -> None:
    path, ledger = write_gguf(tmp_path / "tiny.gguf"), tmp_path / "ledger.json"
    with keeper(path, served_prefix="<|wrong|>") as server, OllamaClient(server.url) as client:
        result = push(client, path, "tiny", ledger_path=ledger)
        assert result.verdict is Verdict.FAILED
        (differs,) = [check for check in result.checks if check.id == "ollama.check-prompt-differs"]
        assert "<|wrong|>" in str(differs.params["diff"])
        server.served_prefix = ""
        repaired = push(client, path, "tiny", ledger_path=ledger)
        assert not repaired.unchanged
        assert repaired.verdict is Verdict.PASSED
        assert push(client, path, "tiny", ledger_path=ledger).unchanged


def test_a_guess_of_the_server_is_reported(golden: Path, tmp_path: Path) -> None:
    lines = load_exchanges(golden, "create-gguf-stream")[0]["response"]["ndjson"]
    path = write_gguf(tmp_path / "tiny.gguf")
    with keeper(path, create_lines=lines) as server, OllamaClient(server.url) as client:
        server.models["tiny:latest"] = {"digest": "a" * 64, "served": "b" * 64, "body": {}}
        result = push(client, path, "tiny")
    assert result.verdict is Verdict.WARNED
    assert [c.params["template"] for c in result.checks if c.id == "ollama.check-template-guessed"] == [
        "chatml"
    ]


def test_an_answer_without_end_is_only_a_warning(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    with keeper(path, done_reason="length") as server, OllamaClient(server.url) as client:
        result = push(client, path, "tiny")
    assert result.verdict is Verdict.WARNED
    assert "ollama.check-answer-length" in ids(result)


def test_bos_that_the_tokenizer_adds_does_not_count_as_a_difference(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", template="{{ bos_token }}" + CHATML, add_bos=True)
    with Keeper(template=Template(CHATML)) as server, OllamaClient(server.url) as client:
        assert push(client, path, "tiny").verdict is Verdict.PASSED


def test_an_old_server_gets_a_go_template(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    with keeper(path, version="0.9.2") as server, OllamaClient(server.url) as client:
        result = push(client, path, "tiny")
        body = server.models["tiny:latest"]["body"]
    assert "range .Messages" in body["template"]
    assert result.verdict is Verdict.UNKNOWN  # it cannot show its prompt, and that is no pass
    assert "ollama.check-prompt-unknown" in ids(result)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == result.source_digest.removeprefix("sha256:")


def test_the_uploaded_header_escapes_the_template_guess(tmp_path: Path) -> None:
    for template in (CHATML, CHATML + "\n", "{{ '你好' }}" + CHATML + "\n\n"):
        path = write_gguf(tmp_path / "tiny.gguf", template=template)
        with keeper(path) as server, OllamaClient(server.url) as client:
            result = push(client, path, "tiny", verify=False)
            sent = tmp_path / "sent.gguf"
            sent.write_bytes(server.blobs[result.source_digest])
        old, new = read_header(path, array_limit=None), read_header(sent, array_limit=None)
        padded = new.string("tokenizer.chat_template")
        assert len(padded) - len(template) > 99
        assert new.tensors == old.tensors
        assert {k: v for k, v in new.values.items() if v != padded} == {
            k: v for k, v in old.values.items() if v != template
        }
        new.check_complete(sent)
        assert sent.read_bytes()[new.data_offset :] == path.read_bytes()[old.data_offset :]
        assert render(Template(padded), MESSAGES) == render(Template(template), MESSAGES)


def test_a_template_that_is_padded_or_long_is_left_alone(tmp_path: Path) -> None:
    with Keeper() as server, OllamaClient(server.url) as client:
        version = client.version()
    long = write_gguf(tmp_path / "long.gguf", template=CHATML + "{# " + "x" * 5000 + " #}")
    candidate = read_candidate(long)
    assert content_of(candidate, decide(candidate, Wishes(), version)) == Content.of_file(long)
    with pytest.raises(RfctlError):
        pad_template(long.read_bytes()[: candidate.data_offset], "not in there", 32)


def test_stops_come_from_the_template(tmp_path: Path) -> None:
    tags = CHATML.replace("<|im_start|>", "<turn>").replace("<|im_end|>", "</turn>")
    plain = read_candidate(write_gguf(tmp_path / "a.gguf", template=tags))
    tokens = ("<unk>", "</s>", "</turn>")
    unreachable = read_candidate(
        write_gguf(tmp_path / "b.gguf", template=tags, tokens=tokens, control=tokens, eos=1)
    )
    with Keeper() as server, OllamaClient(server.url) as client:
        version = client.version()
    stops = decide(plain, Wishes(), version).stops
    assert (stops.texts, stops.end, stops.ends_itself) == (("</turn>",), "</turn>", False)
    stops = decide(unreachable, Wishes(), version).stops
    assert stops.unreachable and stops.texts == ()


def test_a_named_format_is_sent_to_every_server(tmp_path: Path) -> None:
    plain = write_gguf(tmp_path / "plain.gguf", template="")
    with Keeper() as server, OllamaClient(server.url) as client:
        push(client, plain, "plain", template="llama3", verify=False)
        body = server.models["plain:latest"]["body"]
        assert "<|start_header_id|>" in body["template"]
        assert "<|eot_id|>" in body["parameters"]["stop"]
        bare = push(client, plain, "bare")
        assert "template" not in server.models["bare:latest"]["body"]
    assert "ollama.check-prompt-no-template" in ids(bare)


def test_a_template_that_the_server_will_ignore_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", template=CHATML + "{% if tools %}{{ tools }}{% endif %}")
    warnings: list[str] = []

    class Listener(type(SILENT)):  # type: ignore[misc]
        def warn(self, id: str, /, **params: object) -> None:
            warnings.append(id)

    def write(template: str) -> Wishes:
        return Wishes(modelfile=parse_modelfile(f"FROM .\nTEMPLATE {template}\n"))

    with Keeper() as server, OllamaClient(server.url) as client:
        version = client.version()
    candidate = read_candidate(path)
    decide(candidate, write("{{ .Prompt }}{{ .Tools }}"), version, Listener())
    assert warnings == []
    decide(candidate, write("{{ .Prompt }}"), version, Listener())
    decide(candidate, Wishes(template="zephyr"), version, Listener())
    assert warnings == ["ollama.template-ignored"] * 2
