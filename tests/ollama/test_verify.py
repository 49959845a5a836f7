"""`model verify`: prompts compared over the corpus, against the running engine and a server with faults."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from model_file import write_gguf
from ollama_server import Keeper

from rfctl.core.error import UsageError
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.family import families
from rfctl.ollama.proof import Verdict, corpus
from rfctl.ollama.push import push
from rfctl.ollama.template import Template, render
from rfctl.ollama.training import find_training_template, training_templates
from rfctl.ollama.verify import Verification, verify_model

sys.path.append(str(Path(__file__).parent.parent / "engine"))

# The essentials of Qwen2.5's template: a default system prompt, and tools.
QWEN = (
    "{%- if tools %}<|im_start|>system\n"
    "{%- if messages[0].role == 'system' %}{{ messages[0].content }}{% else %}"
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.{% endif %}\n\n# Tools\n"
    "{%- for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}<|im_end|>\n{% else %}"
    "{%- if messages[0].role == 'system' %}<|im_start|>system\n{{ messages[0].content + '<|im_end|>\n' }}"
    "{%- else %}<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "{{ '<|im_end|>\n' }}{% endif %}{% endif %}"
    "{%- for message in messages %}{% if message.role != 'system' or not loop.first %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{% endif %}{% endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# DeepSeek-R1's: reasoning is cut out of the history.
R1 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<|im_start|>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{% set content = message['content'] %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<|unused|>' + content + '<|im_end|>' }}{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|unused|><think>\n' }}{% endif %}"
)


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


GPT4 = (
    "<|start_header_id|>GPT4 Correct User<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>GPT4 Correct Assistant<|end_header_id|>\n\n"
)


def write_chat(path: Path, template: str) -> Path:
    from tiny_model import write_chat_model  # type: ignore[import-not-found]

    written: Path = write_chat_model(path, template=template, bos="")
    return written


def verdicts(result: Verification) -> dict[str, Verdict]:
    return {check.id: check.verdict for check in result.checks}


def test_a_model_that_was_trained_with_qwen(client: OllamaClient, tmp_path: Path) -> None:
    push(client, write_chat(tmp_path / "m.gguf", QWEN), "qwen", num_ctx=2048, verify=False)
    result = verify_model(client, "qwen", training=find_training_template("qwen"))
    assert result.source == "store"
    assert verdicts(result) | {"ollama.check-answer": Verdict.PASSED} == {
        "ollama.check-capability": Verdict.PASSED,
        "ollama.check-prompt": Verdict.PASSED,
        "verify.tools": Verdict.PASSED,
        "verify.training": Verdict.PASSED,
        "ollama.check-end": Verdict.PASSED,
        "ollama.check-answer": Verdict.PASSED,
        "ollama.check-context": Verdict.PASSED,
    } | {id: v for id, v in verdicts(result).items() if id == "ollama.check-answer-length"}
    other = verify_model(client, "qwen", training=find_training_template("chatml"))
    assert verdicts(other)["verify.training-differs"] is Verdict.FAILED
    # Without a system message the served prompt has a default one that ChatML does not train.
    assert "question" in {difference.conversation for difference in other.differences}
    assert "system" not in {difference.conversation for difference in other.differences}
    assert "+<|im_start|>system" in other.differences[0].diff


def test_reasoning_turns_are_compared(client: OllamaClient, tmp_path: Path) -> None:
    push(client, write_chat(tmp_path / "m.gguf", R1), "r1", num_ctx=2048, verify=False)
    result = verify_model(client, "r1")
    check = next(check for check in result.checks if check.id == "ollama.check-prompt")
    assert check.params["count"] == len(corpus())
    assert "7 * 13" not in (client.render("r1", corpus()["reasoning"]) or "7 * 13")


def test_a_go_template_that_differs_is_found_and_can_be_accepted(
    client: OllamaClient, tmp_path: Path
) -> None:
    from model_file import CHATML

    path = write_chat(tmp_path / "m.gguf", CHATML)
    ledger = tmp_path / "ledger.json"
    push(client, path, "other", num_ctx=2048, template="zephyr", ledger_path=ledger, verify=False)
    result = verify_model(client, "other", ledger_path=ledger)
    assert result.verdict is Verdict.FAILED
    assert {difference.conversation for difference in result.differences} == set(corpus())
    accepted = verify_model(client, "other", ledger_path=ledger, accept="trained so")
    assert accepted.verdict is not Verdict.FAILED
    assert verdicts(accepted)["verify.accepted"] is Verdict.WARNED
    again = verify_model(client, "other", ledger_path=ledger)
    assert (again.accepted, again.verdict) == ("trained so", accepted.verdict)
    # A model that was replaced is not covered any more.
    push(client, path, "other", num_ctx=1024, template="zephyr", ledger_path=ledger, verify=False)
    assert verify_model(client, "other", ledger_path=ledger).verdict is Verdict.FAILED


def test_a_server_that_hides_its_files_is_asked(client: OllamaClient, tmp_path: Path) -> None:
    push(client, write_chat(tmp_path / "m.gguf", QWEN), "hidden", num_ctx=2048, verify=False)
    client.is_loopback, before = False, client.is_loopback
    try:
        result = verify_model(client, "hidden")
    finally:
        client.is_loopback = before
    assert result.source == "server"
    assert verdicts(result)["ollama.check-prompt"] is Verdict.PASSED
    assert verdicts(result)["ollama.check-end"] is Verdict.PASSED


def test_training_templates_are_complete_and_belong_to_families() -> None:
    assert {"qwen", "llama3", "deepseek3", "mistral", "gemma", "phi4", "glm4"} <= set(training_templates())
    for template in training_templates().values():
        assert "{content}" in template.user
        assert template.family in ("", *families())
    with pytest.raises(UsageError) as caught:
        find_training_template("qwen33")
    near = str(caught.value.params["known"]).split(", ")
    assert near[0] == "qwen3"
    assert len(near) <= 8


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("llama2", "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nA [/INST]B</s><s>[INST] C [/INST]"),
        ("mistral", "<s>[INST] S\n\nA[/INST] B</s>[INST] C[/INST]"),
        ("deepseek3", "<s>S<｜User｜>A<｜Assistant｜>B</s><｜User｜>C<｜Assistant｜>"),
        ("vicuna", "SUSER: A ASSISTANT:B</s>USER: C ASSISTANT:"),
        ("chatglm2", "[gMASK]sopS[Round 0]\n\n问：A\n\n答：B[Round 1]\n\n问：C\n\n答："),
        ("ministral", "<s>[INST]S\n\nA[/INST]B</s>[INST]C[/INST]"),
        ("mistral_small", "<s>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]A[/INST]B</s>[INST]C[/INST]"),
        ("openchat-3.6", "<s>S" + GPT4.format("A") + "B</s>" + GPT4.format("C")),
        ("orion", "<s>SHuman: A\n\nAssistant: </s>B</s>Human: C\n\nAssistant: </s>"),
        ("seed_coder", "<s>system\nS</s><s>user\nA</s><s>assistant\nB</s><s>user\nC</s><s>assistant\n"),
    ],
)
def test_training_forms(name: str, wanted: str) -> None:
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "A"},
        {"role": "assistant", "content": "B"},
        {"role": "user", "content": "C"},
    ]
    assert find_training_template(name).render(messages, bos="<s>", eos="</s>") == wanted


def test_conversations_whose_default_text_is_not_kept_are_not_compared() -> None:
    template = find_training_template("dbrx")
    assert template.knows([{"role": "system", "content": "S"}, {"role": "user", "content": "A"}])
    assert not template.knows([{"role": "user", "content": "A"}])


def test_our_copy_of_the_template_renders_as_qwen_trains() -> None:
    template = find_training_template("qwen")
    for key, messages in corpus().items():
        assert render(Template(QWEN), messages) == template.render(messages), key


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    from model_file import CHATML

    with Keeper(template=Template(CHATML)) as server:
        yield server


def test_the_command_shows_the_difference_and_exits_with_5(
    keeper: Keeper, rfctl: Callable[..., Any], tmp_path: Path
) -> None:
    write_gguf(tmp_path / "m.gguf")
    env = {"OLLAMA_HOST": keeper.url}
    assert rfctl("model", "push", "m.gguf", "m", "--no-verify", env=env).code == 0
    good = rfctl("model", "verify", "m", "--gguf", "m.gguf", "--trained-with", "chatml", env=env)
    assert good.code == 0, good.out + good.err
    assert "ok: 5 conversations become the prompt that LLaMA-Factory's template chatml trains on" in good.out
    keeper.served_prefix = "<|x|>"
    bad = rfctl("model", "verify", "m", "--gguf", "m.gguf", env=env)
    assert bad.code == 5
    assert "\nquestion:\n" in bad.out
    assert "  -<|im_start|>user\n  +<|x|><|im_start|>user\n" in bad.out
    refused = rfctl("model", "verify", "m", "--accept-template-diff", " ", env=env)
    assert (refused.code, "verify.reason-empty" in refused.err) == (2, True)
    accepted = rfctl(
        "model", "verify", "m", "--gguf", "m.gguf", "--accept-template-diff", "known", "--json", env=env
    )
    document = json.loads(accepted.out)
    assert (accepted.code, document["accepted"]) == (0, "known")
    assert len(document["differences"]) == len(corpus())
    absent = rfctl("model", "verify", "absent", env=env)
    assert (absent.code, "ollama.model-missing" in absent.err) == (1, True)


def test_an_old_server_is_judged_by_token_counts(tmp_path: Path) -> None:
    from model_file import CHATML

    class Counting(Keeper):
        extra = 0

        def _count(self, text: str) -> Any:
            from ollama_server import answer

            message = {"role": "assistant", "content": "x"}
            numbers = {"prompt_eval_count": len(text), "eval_count": 1, "done": True, "done_reason": "stop"}
            return answer({"model": "m", "message": message, "response": "x", **numbers})

        def _chat(self, body: Any) -> Any:
            return self._count(render(self.template, body["messages"]) + " " * self.extra)

        def _generate(self, body: Any) -> Any:
            assert body["raw"] is True
            return self._count(body["prompt"])

    path = write_gguf(tmp_path / "m.gguf")
    with Counting(version="0.9.0", template=Template(CHATML)) as server, OllamaClient(server.url) as client:
        push(client, path, "m", verify=False)
        assert verdicts(verify_model(client, "m", gguf=path))["verify.counts"] is Verdict.PASSED
        server.extra = 1
        assert verdicts(verify_model(client, "m", gguf=path))["verify.counts-differ"] is Verdict.FAILED


def test_an_end_that_nothing_stops_at_is_a_failure(keeper: Keeper, tmp_path: Path) -> None:
    plain = keeper.template.text.replace("<|im_end|>", "<end>")
    keeper.template = Template(plain)
    path = write_gguf(tmp_path / "m.gguf", template=plain)
    with OllamaClient(keeper.url) as client:
        push(client, path, "m", verify=False)
        keeper.tells_parameters = False  # as one that lost them
        found = verdicts(verify_model(client, "m", gguf=path))
    assert found["verify.end-missing"] is Verdict.FAILED
    assert found["ollama.check-context-missing"] is Verdict.WARNED
