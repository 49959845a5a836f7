"""Pushing against a server on a socket that rewrites what it is given, as Ollama from 0.30 does."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from model_file import CHATML, write_gguf
from ollama_server import Keeper, Request, Response, answer, load_exchanges, stream

from rfctl.core.error import RfctlError, UnreachableError, UsageError
from rfctl.core.gguf_header import GgufError, read_header
from rfctl.core.progress import SILENT
from rfctl.ollama.blob import Content
from rfctl.ollama.candidate import read_candidate
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.modelfile import parse_modelfile
from rfctl.ollama.proof import Verdict
from rfctl.ollama.push import Push, push
from rfctl.ollama.recipe import Wishes, content_of, decide, pad_template
from rfctl.ollama.template import Template, render

MESSAGES = [{"role": "user", "content": "hi"}]


def keeper(path: Path, **faults: object) -> Keeper:
    candidate = read_candidate(path)
    return Keeper(template=candidate.template, **faults)  # type: ignore[arg-type]


def ids(result: Push) -> list[str]:
    return [check.id for check in result.checks]


def test_push_sends_explicit_settings_and_proves_the_prompt(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    with keeper(path) as server, OllamaClient(server.url) as client:
        result = push(client, path, "My/Tiny:v1", system="Be kind.", ledger_path=tmp_path / "ledger.json")
        body = server.models["My/Tiny:v1"]["body"]
        uploaded = server.blobs[result.source_digest]
    assert body == {
        "model": "My/Tiny:v1",
        "files": {"tiny.gguf": result.source_digest},
        "parameters": {"num_ctx": 8192, "stop": ["<|im_start|>", "<|im_end|>"]},
        "system": "Be kind.",
    }
    assert (result.num_ctx, result.family, result.architecture) == (8192, "chatml", "llama")
    assert not result.unchanged
    assert result.uploaded == result.size == len(uploaded)
    assert result.orphan_bytes == result.size  # the server serves a rewritten file
    assert ids(result) == [
        "ollama.check-capability",
        "ollama.check-prompt",
        "ollama.check-answer",
        "ollama.check-context",
        "ollama.check-end",
    ]
    assert result.verdict is Verdict.PASSED


def test_the_expected_disk_is_said_before_the_upload(tmp_path: Path) -> None:
    notes: list[tuple[str, int]] = []
    path = write_gguf(tmp_path / "tiny.gguf")
    with keeper(path) as server, OllamaClient(server.url) as client:

        class Listener(type(SILENT)):  # type: ignore[misc]
            def note(self, id: str, /, **params: object) -> None:
                uploads = [item for item in server.requests if item.method == "POST" and "blobs" in item.path]
                notes.append((id, len(uploads)))

        push(client, path, "tiny", verify=False, reporter=Listener())
        assert notes == [("ollama.push-disk", 0)]
        server.version = "0.9.2"  # takes the file as it is
        push(client, path, "other", verify=False, reporter=Listener())
        assert len(notes) == 1


def test_the_same_push_is_recognised_by_content(tmp_path: Path) -> None:
    path, ledger = write_gguf(tmp_path / "tiny.gguf"), tmp_path / "ledger.json"
    with keeper(path) as server, OllamaClient(server.url) as client:
        first = push(client, path, "tiny", ledger_path=ledger)
        before = len(server.requests)
        again = push(client, path, "tiny:latest", ledger_path=ledger)
        asked = [(request.method, request.path) for request in server.requests[before:]]
        assert again.unchanged and again.uploaded == 0
        assert (again.digest, again.checks, again.stops) == (first.digest, first.checks, first.stops)
        assert asked == [("GET", "/api/version"), ("GET", "/api/tags")]
        # Other settings, a new name, a touched file and a model that somebody replaced are all pushed again;
        # bytes that the server has are not sent twice.
        assert not push(client, path, "tiny", num_ctx=4096, ledger_path=ledger).unchanged
        other = push(client, path, "other", ledger_path=ledger)
        assert not other.unchanged and other.uploaded == 0
        os.utime(path, (1, 1))
        assert push(client, path, "other", ledger_path=ledger).unchanged
        server.models["other:latest"]["digest"] = "f" * 64
        assert not push(client, path, "other", ledger_path=ledger).unchanged
        ledger.write_text("{broken")
        assert not push(client, path, "other", ledger_path=ledger).unchanged


def test_recognising_an_unchanged_file_reads_no_gigabytes(tmp_path: Path) -> None:
    path, ledger = write_gguf(tmp_path / "big.gguf", rows=5, embedding=64), tmp_path / "ledger.json"
    with path.open("ab") as file:
        file.truncate(1 << 30)  # sparse; behind the tensors
    with keeper(path) as server, OllamaClient(server.url) as client:
        content = Content.of_file(path)
        assert content.size == 1 << 30
        recipe = decide(read_candidate(path), Wishes(), client.version())
        from rfctl.ollama.ledger import Entry, Ledger

        book = Ledger(ledger)
        book.record_digest(path, "padded", "sha256:" + "a" * 64)
        book.record(server.url, "big:latest", Entry("sha256:" + "a" * 64, recipe.settings, "m", 1, 0, True))
        server.models["big:latest"] = {"digest": "m"}
        started = time.monotonic()
        assert push(client, path, "big", ledger_path=ledger).unchanged
    assert time.monotonic() - started < 2


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


def test_embedding_models_are_measured(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "mini.gguf", template="", pooling=1, context=1024, embedding=2)
    with Keeper(capabilities=("embedding",)) as server, OllamaClient(server.url) as client:
        result = push(client, path, "mini")
        assert (result.num_ctx, result.is_embedding, result.stops) == (1024, True, ())
        assert ids(result) == [
            "ollama.check-capability",
            "ollama.check-embedding",
            "embedding.pooling",
            "embedding.context",
        ]
        assert result.verdict is Verdict.PASSED
        server.vectors = [[3.0, 4.0], [1.0, 0.0]]
        assert push(client, path, "mini").verdict is Verdict.FAILED
        server.vectors = [[1.0], [1.0]]
        assert push(client, path, "mini").verdict is Verdict.FAILED


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


def test_a_modelfile_gives_what_the_flags_do_not(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    text = 'FROM .\nSYSTEM from file\nPARAMETER num_ctx 2048\nPARAMETER stop "X "\nPARAMETER top_k 5\n'
    text += "PARAMETER mirostat 2\nLICENSE MIT\nMESSAGE user hi\n"
    with keeper(path) as server, OllamaClient(server.url) as client:
        push(client, path, "tiny", modelfile=parse_modelfile(text), system="flag", verify=False)
        body = server.models["tiny:latest"]["body"]
        push(client, path, "two", modelfile=parse_modelfile(text), num_ctx=1024, verify=False)
        assert server.models["two:latest"]["body"]["parameters"]["num_ctx"] == 1024
    assert body["system"] == "flag"
    assert body["parameters"] == {"num_ctx": 2048, "stop": ["X "], "top_k": 5}
    assert body["license"] == ["MIT"]
    assert body["messages"] == [{"role": "user", "content": "hi"}]


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


@pytest.mark.parametrize(
    ("arguments", "id"),
    [
        ({"num_ctx": 40000}, "ollama.num-ctx"),
        ({"num_ctx": 0}, "ollama.num-ctx"),
        ({"template": "nonsense"}, "ollama.family-unknown"),
        ({"parameters": {"nonsense": 1}}, "ollama.parameter-unknown"),
        ({"parameters": {"temperature": "hot"}}, "ollama.parameter-type"),
        ({"modelfile": parse_modelfile("FROM .\nADAPTER x")}, "ollama.modelfile-adapter"),
    ],
)
def test_bad_wishes_are_refused_before_anything_is_sent(
    tmp_path: Path, arguments: dict[str, object], id: str
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    with keeper(path) as server, OllamaClient(server.url) as client:
        with pytest.raises(UsageError) as caught:
            push(client, path, "tiny", **arguments)  # type: ignore[arg-type]
        assert caught.value.id == id
        assert {request.method for request in server.requests} == {"GET"}


def test_a_cut_file_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:-100])
    with Keeper() as server, OllamaClient(server.url) as client:
        with pytest.raises(GgufError):
            push(client, path, "tiny")
        assert not server.requests


def test_faults_leave_no_entry_in_the_ledger(tmp_path: Path) -> None:
    path, ledger = write_gguf(tmp_path / "tiny.gguf", rows=20000), tmp_path / "ledger.json"
    with keeper(path) as server, OllamaClient(server.url) as client:
        server.drop_upload_after = 1000
        with pytest.raises(UnreachableError):
            push(client, path, "tiny", ledger_path=ledger)
        server.drop_upload_after = None
        for lines, id in (
            ([{"status": "parsing GGUF"}], "ollama.create-unfinished"),
            ([{"error": "write x: no space left on device"}], "ollama.disk-full"),
            ([{"status": "success"}], "ollama.create-vanished"),
        ):
            server.create_lines = lines
            with pytest.raises(RfctlError) as caught:
                push(client, path, "tiny", ledger_path=ledger)
            assert caught.value.id == id
        server.create_lines = None
        assert not push(client, path, "tiny", ledger_path=ledger).unchanged


def test_a_ledger_that_cannot_be_written_does_not_undo_the_push(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "file").write_text("")
    with keeper(path) as server, OllamaClient(server.url) as client:
        result = push(client, path, "tiny", ledger_path=tmp_path / "file" / "ledger.json")
        assert result.verdict is Verdict.PASSED
        assert "tiny:latest" in server.models


def test_two_pushes_at_once_both_reach_the_ledger(tmp_path: Path) -> None:
    path, ledger = write_gguf(tmp_path / "tiny.gguf"), tmp_path / "ledger.json"
    with keeper(path) as server:

        def work(name: str) -> Push:
            with OllamaClient(server.url) as client:
                return push(client, path, name, ledger_path=ledger, verify=False)

        names = ["a", "b", "c"]
        with ThreadPoolExecutor(3) as pool:
            assert [result.name for result in pool.map(work, names)] == [f"{name}:latest" for name in names]
        assert all(work(name).unchanged for name in names)


def test_two_pushes_of_one_name_at_once_do_not_mix(tmp_path: Path) -> None:
    path, ledger = write_gguf(tmp_path / "tiny.gguf"), tmp_path / "ledger.json"
    inside, leave = threading.Event(), threading.Event()

    class Slow(Keeper):
        def _create(self, body: Any) -> Response:
            inside.set()
            assert leave.wait(30)
            return super()._create(body)

    with Slow(template=read_candidate(path).template) as server, OllamaClient(server.url) as client:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(push, client, path, "tiny", ledger_path=ledger, verify=False)
            assert inside.wait(30)
            with OllamaClient(server.url) as other, pytest.raises(RfctlError) as caught:
                push(other, path, "TINY:latest", num_ctx=64, ledger_path=ledger, verify=False)
            assert caught.value.id == "ollama.push-running"
            leave.set()
            assert not first.result().unchanged
        assert push(client, path, "tiny", ledger_path=ledger, verify=False).unchanged
        # After it another may go.
        assert push(client, path, "tiny", num_ctx=64, ledger_path=ledger, verify=False).num_ctx == 64


@pytest.mark.parametrize(
    ("status", "text", "id"),
    [
        (400, 'digest mismatch, expected "sha256:a", got "sha256:b"', "ollama.digest-mismatch"),
        (500, "open /m/blobs/sha256-1: permission denied", "ollama.store-permission"),
        (500, "open /m/blobs/sha256-1: read-only file system", "ollama.store-permission"),
        (500, "chtimes /m/blobs/sha256-1: operation not permitted", "ollama.store-permission"),
        (500, "write /m/blobs/sha256-1: no space left on device", "ollama.disk-full"),
        (500, "write /m/blobs/sha256-1: disk quota exceeded", "ollama.disk-full"),
    ],
)
def test_every_fault_of_the_servers_store_has_its_own_id_and_loses_nothing(
    tmp_path: Path, status: int, text: str, id: str
) -> None:
    class Faulty(Keeper):
        at = "blob"

        def _blob(self, request: Request) -> Response:
            if request.method == "POST" and self.at == "blob":
                return answer({"error": text}, status)
            return super()._blob(request)

        def _create(self, body: Any) -> Response:
            return super()._create(body) if self.at == "" else stream([{"error": text}])

    path, ledger = write_gguf(tmp_path / "tiny.gguf"), tmp_path / "ledger.json"
    before = path.read_bytes()
    with Faulty(template=read_candidate(path).template) as server, OllamaClient(server.url) as client:
        server.at = ""
        good = push(client, path, "tiny", ledger_path=ledger)
        for server.at in ("blob", "create"):
            server.blobs.clear()
            with pytest.raises(RfctlError) as caught:
                push(client, path, "tiny", num_ctx=64, ledger_path=ledger)
            assert caught.value.id == id
            for language in ("en", "zh"):
                shown = caught.value.text(language)
                assert shown.message and shown.next
        assert path.read_bytes() == before
        # The model of before is there, and is known.
        assert push(client, path, "tiny", ledger_path=ledger).digest == good.digest
        assert push(client, path, "tiny", ledger_path=ledger).unchanged


def test_a_full_disk_during_the_upload_is_named(tmp_path: Path) -> None:
    class Full(Keeper):
        def _blob(self, request: Request) -> Response:
            if request.method == "POST":
                return answer({"error": "write /m/blobs/sha256-1: no space left on device"}, 500)
            return super()._blob(request)

    path = write_gguf(tmp_path / "tiny.gguf")
    with Full() as server, OllamaClient(server.url) as client:
        with pytest.raises(RfctlError) as caught:
            push(client, path, "tiny")
        assert caught.value.id == "ollama.disk-full"
        assert not server.models


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


def test_a_server_on_another_port_is_recognised_by_the_manifest(tmp_path: Path) -> None:
    path, ledger = write_gguf(tmp_path / "tiny.gguf"), tmp_path / "ledger.json"
    with keeper(path) as old, OllamaClient(old.url) as client:
        push(client, path, "tiny", ledger_path=ledger)
    with keeper(path) as new, OllamaClient(new.url) as client:
        assert not push(client, path, "tiny", num_ctx=64, ledger_path=ledger).unchanged
        new.models = old.models
        new.blobs = old.blobs
        assert not push(client, path, "tiny", ledger_path=ledger).unchanged
    with keeper(path) as third, OllamaClient(third.url) as client:
        third.models = new.models
        assert push(client, path, "tiny", ledger_path=ledger).unchanged


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
