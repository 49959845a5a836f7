"""The one context number and its reason; a prompt that was not read whole is an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_file import CHATML, write_gguf
from ollama_server import Keeper

from rfctl.core.error import RfctlError
from rfctl.core.machine import Machine, read_machine
from rfctl.ollama.candidate import Candidate, read_candidate
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.context import Need, choose_context, default_need, estimate_memory
from rfctl.ollama.fill import check_fill
from rfctl.ollama.proof import Verdict
from rfctl.ollama.push import push
from rfctl.ollama.served import check_asked
from rfctl.ollama.template import Template
from rfctl.ollama.truncation import check_whole, count_least

GB = 1 << 30


class Listener:
    """Collects warnings."""

    def __init__(self) -> None:
        self.warnings: list[tuple[str, dict[str, object]]] = []

    def stage(self, id: str, /, **params: object) -> Any:
        raise AssertionError(id)

    def note(self, id: str, /, **params: object) -> None:
        raise AssertionError(id)

    def warn(self, id: str, /, **params: object) -> None:
        self.warnings.append((id, params))


@pytest.fixture
def candidate(tmp_path: Path) -> Candidate:
    """A model as large as Qwen2.5-7B in Q4_K_M, trained for 32768 tokens."""
    found = read_candidate(write_gguf(tmp_path / "m.gguf"))
    return replace(found, weight_bytes=int(4.7e9), cache_bytes=57344)


def test_the_assistants_needs_decide_where_there_is_room(candidate: Candidate) -> None:
    need = default_need()
    assert need.tokens == 8192 == need.top_n * need.chunk_tokens + need.rest
    context = choose_context(candidate, machine=Machine(32 * GB, 30 * GB, 8))
    assert (context.num_ctx, context.id, context.params["top_n"]) == (8192, "context.need", 8)
    larger = Need(top_n=20, chunk_tokens=512, prompt_tokens=500, talk_tokens=500, answer_tokens=1000)
    assert choose_context(candidate, need=larger).num_ctx == 20 * 512 + 2000
    # The number does not depend on what happens to be free, so that the same push stays the same.
    assert choose_context(candidate, machine=Machine(32 * GB, 1, 8)).num_ctx == 8192


def test_the_trained_length_and_the_memory_bound_it(candidate: Candidate) -> None:
    short = choose_context(replace(candidate, context_length=4096))
    assert (short.num_ctx, short.id, short.params["need"]) == (4096, "context.trained", 8192)
    machine = Machine(int(6.5 * GB), 6 * GB, 2)
    bounded = choose_context(candidate, machine=machine)
    assert (bounded.num_ctx, bounded.id) == (4096, "context.memory")
    assert estimate_memory(candidate, 4096) <= machine.memory * 0.8 < estimate_memory(candidate, 8192)
    tiny = choose_context(candidate, machine=Machine(2 * GB, 2 * GB, 2))
    assert tiny.num_ctx == 2048  # less would help no assistant; the warning says what it takes
    assert choose_context(candidate, machine=Machine(0, 0, 2)).num_ctx == 8192  # unknown bounds nothing


def test_what_is_asked_for_wins_and_is_warned_about(candidate: Candidate) -> None:
    listener = Listener()
    asked = choose_context(
        candidate, asked=3072, written=2048, machine=Machine(4 * GB, 4 * GB, 2), reporter=listener
    )
    assert (asked.num_ctx, asked.id) == (3072, "context.asked")
    assert choose_context(candidate, written=2048).id == "context.modelfile"
    assert [id for id, _ in listener.warnings] == ["context.too-small", "context.memory-short"]
    assert listener.warnings[0][1] == {"num_ctx": 3072, "need": 8192, "passages": 2}
    for value in (0, 32769):
        with pytest.raises(RfctlError) as caught:
            choose_context(candidate, asked=value)
        assert caught.value.id == "ollama.num-ctx"


def test_few_cores_without_a_gpu_are_named(candidate: Candidate) -> None:
    large = replace(candidate, parameter_count=7_600_000_000)
    for machine, wanted in (
        (Machine(32 * GB, 30 * GB, 2, False), ["context.slow"]),
        (Machine(32 * GB, 30 * GB, 2, True), []),
        (Machine(32 * GB, 30 * GB, 2, None), []),
        (Machine(32 * GB, 30 * GB, 96, False), []),
    ):
        listener = Listener()
        choose_context(large, machine=machine, reporter=listener)
        assert [id for id, _ in listener.warnings] == wanted
    listener = Listener()
    choose_context(large, machine=Machine(32 * GB, 30 * GB, 2, False), reporter=listener)
    assert listener.warnings[0][1] == {"tokens": 8192, "minutes": 26, "cores": 2}


def test_an_embedding_model_gets_its_own_length(candidate: Candidate) -> None:
    listener = Listener()
    embedder = replace(candidate, is_embedding=True, context_length=512)
    assert choose_context(embedder, reporter=listener).num_ctx == 512
    assert choose_context(replace(embedder, context_length=32768)).num_ctx == 8192
    assert listener.warnings == []


def test_the_cache_is_counted_from_the_header(tmp_path: Path) -> None:
    import gguf

    def measure(**values: Any) -> int | None:
        writer = gguf.GGUFWriter(tmp_path / "c.gguf", "qwen2")
        writer.add_block_count(28)
        writer.add_embedding_length(3584)
        writer.add_head_count(28)
        for name, value in values.items():
            getattr(writer, name)(value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return read_candidate(tmp_path / "c.gguf").cache_bytes

    assert measure(add_head_count_kv=4) == 2 * 28 * 4 * (128 + 128)
    assert measure() == 2 * 28 * 28 * 256
    assert measure(add_head_count_kv=4, add_key_length=192, add_value_length=64) == 2 * 28 * 4 * 256
    assert measure(add_head_count_kv=[0, 8] * 14) == 2 * 14 * 8 * 256
    assert read_candidate(write_gguf(tmp_path / "m.gguf")).cache_bytes is None


def test_this_machine_is_known() -> None:
    machine = read_machine()
    assert machine.memory >= machine.free > 1 << 28
    assert machine.cores >= 1


TOKENS = st.lists(st.text("abĠé", min_size=1, max_size=4), max_size=12, unique=True)


@given(tokens=TOKENS, text=st.text("ab é", max_size=24))
def test_no_row_of_tokens_is_shorter_than_the_least(tokens: list[str], text: str) -> None:
    blank = Candidate(
        Path(), "x", None, None, False, Template(""), False, frozenset(), {}, frozenset(), 0, 0, 0
    )
    counted = count_least(replace(blank, tokenizer="gpt2", vocabulary=("", *tokens)), text)
    spelled = text.replace(" ", "Ġ").replace("é", "Ã©")
    # Any greedy row, from either end, is a row; single letters are always there as bytes.
    for reverse in (False, True):
        rest, count = spelled, 0
        while rest:
            fits = [
                token for token in tokens if (rest.endswith(token) if reverse else rest.startswith(token))
            ]
            step = max((len(token) for token in fits), default=1)
            rest = rest[:-step] if reverse else rest[step:]
            count += 1
        assert counted is not None
        assert counted <= count
    longest = max((len(token) for token in tokens), default=1)
    assert counted * longest >= len(spelled)
    assert count_least(replace(blank, tokenizer="bert", vocabulary=("a",)), text) is None


def test_the_least_is_close_to_what_a_real_tokenizer_makes(golden: Path) -> None:
    from tokenizers import Tokenizer

    real = Tokenizer.from_file(str(golden / "converter" / "tokenizers" / "gpt2" / "tokenizer.json"))
    words = tuple(word for word, _ in sorted(real.get_vocab().items(), key=lambda item: item[1]))
    blank = Candidate(
        Path(), "x", None, None, False, Template(""), False, frozenset(), {}, frozenset(), 0, 0, 0
    )
    candidate = replace(blank, tokenizer="gpt2", vocabulary=words)
    for text in ("How many pages has the manual of the pump?\n" * 40, "def f(x):\n    return x + 1\n" * 30):
        least, count = count_least(candidate, text), len(real.encode(text).ids)
        assert least is not None
        assert least <= count <= least * 1.25


def test_a_cut_prompt_is_an_error_and_a_cached_one_is_not() -> None:
    for read, least, num_ctx in ((258, 1914, 512), (499, 1000, 512), (250, 420, 512)):
        with pytest.raises(RfctlError) as caught:
            check_whole(least, read, num_ctx, model="m")
        assert caught.value.id == "ollama.prompt-truncated"
    check_whole(1000, 0, 512, model="m")  # not said
    check_whole(300, 20, 8192, model="m")  # the rest was in the cache
    check_whole(400, 420, 512, model="m")


def test_push_and_verify_find_a_server_that_cuts(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    template = read_candidate(path).template
    with Keeper(template=template) as server, OllamaClient(server.url) as client:
        server.loaded_context = 2048  # memory was short
        result = push(client, path, "tiny")
        (lower,) = [check for check in result.checks if check.id == "ollama.check-context-lower"]
        assert (lower.verdict, lower.params) == (Verdict.FAILED, {"num_ctx": 8192, "served": 2048})
        server.loaded_context = 0
        # The prompt has 51 tokens: this vocabulary spells it byte by byte.
        server.prompt_tokens = 34
        cut = push(client, path, "small", num_ctx=60)
        (found,) = [check for check in cut.checks if check.id == "ollama.prompt-truncated"]
        assert found.verdict is Verdict.FAILED
        with pytest.raises(RfctlError) as caught:
            question = [{"role": "user", "content": "x" * 200}]
            check_asked(client, "small:latest", question, 34, gguf=path)
        assert caught.value.id == "ollama.prompt-truncated"
        check_asked(client, "small:latest", question, 219, gguf=path)
        check_asked(client, "small:latest", question, 34)  # this server does not tell its vocabulary


def test_a_prompt_as_long_as_the_context_is_counted(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    candidate = read_candidate(path)
    with Keeper(template=candidate.template) as server, OllamaClient(server.url) as client:
        push(client, path, "tiny", num_ctx=4096, verify=False)
        card = client.show("tiny:latest")
        server.prompt_tokens = 2050
        cut = check_fill(client, "tiny:latest", candidate, card)
        assert (cut.id, cut.verdict) == ("ollama.prompt-truncated", Verdict.FAILED)
        sent = json.loads(server.requests[-1].body)
        assert 3000 < len(sent["messages"][0]["content"]) < 4096
        server.prompt_tokens = 3700
        assert check_fill(client, "tiny:latest", candidate, card).verdict is Verdict.PASSED
        other = replace(candidate, tokenizer="t5")
        assert check_fill(client, "tiny:latest", other, card).id == "verify.fill-unknown"


def test_the_command_prints_the_number_and_its_reason(rfctl: Callable[..., Any], tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", context=4096)
    with Keeper(template=Template(CHATML)) as server:
        env = {"OLLAMA_HOST": server.url}
        done = rfctl("model", "push", "m.gguf", "m", "--no-verify", env=env)
        assert "  context 4096: all that the model was trained for; an assistant with 8 passages" in done.out
        assert "context.too-small" in done.err or "may need 8192 tokens" in done.err
        report = json.loads(rfctl("model", "push", "m.gguf", "m", "--no-verify", "--json", env=env).out)
        assert (report["num_ctx"], report["context"]["id"]) == (4096, "context.trained")
        server.prompt_tokens = 100_000
        good = rfctl("model", "verify", "m", "--gguf", "m.gguf", "--fill-context", env=env)
        assert "in a context of 4096" in good.out, good.err
