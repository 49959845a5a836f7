"""The header-only probe: a valid GGUF without weights, the recorded answers, nothing left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from model_file import write_gguf
from ollama_server import Keeper, Request, Response, answer, load_exchanges, stream

from rfctl.core.error import RfctlError, VerdictError
from rfctl.core.gguf_header import read_header
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.probe import Support, make_probe, probe
from rfctl.ollama.push import LARGE_BYTES, push


class Prober(Keeper):
    """Refuses real files and answers the first use of a probe with `loading`."""

    loading: str = ""

    def _create(self, body: Any) -> Response:
        if not body["model"].startswith("rfctl-probe-"):
            text = "failed to validate GGUF with llama-quantize: llama-quantize failed: exit status 1"
            return stream([{"status": "parsing GGUF"}, {"error": text}])
        return super()._create(body)

    def _generate(self, body: Any) -> Response:
        return answer({"error": self.loading}, 500)


def recorded_texts(golden: Path) -> list[str]:
    return [
        exchange["response"]["json"]["error"]
        for exchange in load_exchanges(golden, "probe-header-only")
        if exchange["request"]["path"] == "/api/generate"
    ]


def test_the_probe_is_a_gguf_with_all_values_and_one_tensor(tmp_path: Path) -> None:
    for template in ("", "x" * 1, "x" * 7, "x" * 31):  # every padding
        path = write_gguf(tmp_path / "m.gguf", template=template)
        small = tmp_path / "probe.gguf"
        small.write_bytes(make_probe(path))
        old, new = read_header(path, array_limit=None), read_header(small, array_limit=None)
        assert dict(new.values) == dict(old.values)
        assert [(t.name, t.type_name, t.shape) for t in new.tensors] == [("mm.probe", "F32", (32,))]
        new.check_complete(small)
        assert small.stat().st_size < path.stat().st_size + 256


def test_every_recorded_answer_is_understood(golden: Path, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    texts = recorded_texts(golden)
    found = []
    for text in texts:
        with Prober() as server, OllamaClient(server.url) as client:
            server.loading = text
            result = probe(client, path)
            found.append((result.answer, result.cause.id if result.cause else ""))
            assert server.models == {}
            assert [r.method for r in server.requests if r.path == "/api/delete"] == ["DELETE"]
    assert found == [
        (Support.SUPPORTED, ""),
        (Support.UNSUPPORTED, "ollama.architecture-unknown"),
        (Support.UNSUPPORTED, "ollama.pre-tokenizer-unknown"),
        (Support.UNSUPPORTED, "ollama.gguf-incomplete"),
    ]


def test_push_names_the_cause_of_a_mute_refusal(golden: Path, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    with Prober() as server, OllamaClient(server.url) as client:
        server.loading = recorded_texts(golden)[1]
        with pytest.raises(VerdictError) as caught:
            push(client, path, "m")
        assert caught.value.id == "ollama.architecture-unknown"
        assert caught.value.params["architecture"] == "lhama"
        server.loading = "something else"
        with pytest.raises(RfctlError) as mute:
            push(client, path, "m")
        assert mute.value.id == "ollama.gguf-refused"


def test_an_unreachable_server_is_no_answer(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")

    class Failing(Keeper):
        def _handle(self, request: Request) -> Response:
            if request.path == "/api/generate":
                return answer({"error": "llama-server process has terminated: signal: killed"}, 500)
            return super()._handle(request)

    with Failing() as server, OllamaClient(server.url) as client:
        assert probe(client, path).answer is Support.UNKNOWN


def test_a_large_file_is_probed_before_the_upload_and_once_per_version(tmp_path: Path) -> None:
    path, ledger = write_gguf(tmp_path / "m.gguf"), tmp_path / "ledger.json"
    with path.open("ab") as file:
        file.truncate(LARGE_BYTES + 1)  # sparse; behind the tensors

    class Asked(Prober):
        refuses = False

        def _create(self, body: Any) -> Response:
            return super()._create(body) if self.refuses else Keeper._create(self, body)

    def names(server: Keeper) -> list[str]:
        return [item.json["model"][:11] for item in server.requests if item.path == "/api/create"]

    with Asked(version="0.33.1") as server, OllamaClient(server.url) as client:
        server.loading = "error loading model: unknown model architecture: 'llama'"
        with pytest.raises(VerdictError) as caught:
            push(client, path, "m", ledger_path=ledger, verify=False)
        assert caught.value.id == "ollama.architecture-unknown"
        assert names(server) == ["rfctl-probe"]
        assert sum(len(item.body) for item in server.requests) < 1 << 16  # nothing large was sent
        assert server.models == {}
        server.loading = "error loading model: tensor 'token_embd.weight' not found"
        push(client, path, "m", ledger_path=ledger, verify=False)
        server.blobs.clear()
        push(client, path, "n", ledger_path=ledger, verify=False)
        assert names(server) == ["rfctl-probe", "rfctl-probe", "m:latest", "n:latest"]
        server.version = "0.33.2"
        server.blobs.clear()
        push(client, path, "o", ledger_path=ledger, verify=False)
        assert names(server)[-2:] == ["rfctl-probe", "o:latest"]
        assert set(server.models) == {"m:latest", "n:latest", "o:latest"}
