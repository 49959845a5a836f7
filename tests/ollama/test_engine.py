"""The whole way with rfctl's own engine: a converted model is pushed, proved, used and removed."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rfctl.core.error import RfctlError
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.proof import Verdict
from rfctl.ollama.push import push

sys.path.append(str(Path(__file__).parent.parent / "converter"))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaClient]:
    from rfctl.engine import daemon

    folder = tmp_path_factory.mktemp("engine")
    status = daemon.start(folder)
    try:
        with OllamaClient(status.url) as client:
            yield client
    finally:
        daemon.stop(folder)


def convert(golden: Path, case: str, folder: Path) -> Path:
    import builder  # type: ignore[import-not-found]

    from rfctl.converter import convert as conversion

    spec = json.loads((golden / "converter" / "cases" / f"{case}.json").read_text(encoding="utf-8"))
    target = folder / f"{case}.gguf"
    conversion.convert(builder.build(golden, spec, folder), target, outtype="f16")
    return target


def test_a_chat_model_is_served_as_its_template_says(
    client: OllamaClient, golden: Path, tmp_path: Path
) -> None:
    path = convert(golden, "llama2-spm", tmp_path)
    ledger = tmp_path / "ledger.json"
    result = push(client, path, "llama", system="Be kind.", num_ctx=512, ledger_path=ledger)
    verdicts = {check.id: check.verdict for check in result.checks}
    # Random weights do not stop by themselves; everything else must hold.
    assert verdicts["ollama.check-prompt"] is Verdict.PASSED
    assert verdicts["ollama.check-capability"] is Verdict.PASSED
    assert Verdict.FAILED not in verdicts.values()
    assert (result.padded, result.orphan_bytes) == (False, 0)
    assert push(client, path, "llama", system="Be kind.", num_ctx=512, ledger_path=ledger).unchanged
    card = client.show("llama")
    assert card.parameters["num_ctx"] == 512
    assert f"sha256:{card.blob_digest}" == result.source_digest
    assert card.system == "Be kind."
    *pieces, last = client.stream_chat("llama", [{"role": "user", "content": "hi"}], num_predict=4)
    assert not isinstance(last, str)
    assert last.answer_tokens <= 4
    assert "".join(piece for piece in pieces if isinstance(piece, str)) == last.text
    assert client.running()[0].context_length == 512
    client.copy("llama", "copy:v1")
    client.delete("llama")
    assert [entry.name for entry in client.models()] == ["copy:v1"]
    assert not push(client, path, "llama", system="Be kind.", num_ctx=512, ledger_path=ledger).unchanged


def test_an_embedding_model_is_measured(client: OllamaClient, golden: Path, tmp_path: Path) -> None:
    path = convert(golden, "bert-minilm", tmp_path)
    result = push(client, path, "ns/mini:v1")
    assert result.verdict is Verdict.WARNED  # chunks of 512 tokens fill its context
    assert result.is_embedding
    vectors = client.embed("ns/mini:v1", ["one", "two", "three"])
    assert len(vectors) == 3
    assert all(math.isclose(math.hypot(*vector), 1, abs_tol=1e-4) for vector in vectors)
    with pytest.raises(RfctlError) as caught:
        client.chat("ns/mini:v1", [{"role": "user", "content": "hi"}])
    assert caught.value.id == "ollama.capability-missing"


def test_a_missing_model_has_its_own_error(client: OllamaClient) -> None:
    for call in (
        lambda: client.show("nope"),
        lambda: client.delete("nope"),
        lambda: client.chat("nope", [{"role": "user", "content": "x"}]),
        lambda: client.embed("nope", ["x"]),
    ):
        with pytest.raises(RfctlError) as caught:
            call()
        assert caught.value.id == "ollama.model-missing"
