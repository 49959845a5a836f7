"""Native rendering equals what the server rendered; families are recognised by their markers; hostile
templates stay in their bounds."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rfctl.core.data import data_folder
from rfctl.core.error import UsageError
from rfctl.ollama.family import families, find_family, recognise_family
from rfctl.ollama.modelfile import read_modelfile
from rfctl.ollama.template import Template, TemplateError, render, render_isolated


def load_templates(golden: Path) -> list[dict[str, Any]]:
    return [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((golden / "ollama" / "templates").glob("*.json"))
    ]


def test_every_recorded_prompt_is_rendered_as_recorded(golden: Path) -> None:
    count = 0
    for case in load_templates(golden):
        template = Template(case["jinja"], case["bos_token"], case["eos_token"])
        conversations = [conversation["messages"] for conversation in case["conversations"]]
        for conversation, own in zip(
            case["conversations"], render_isolated(template, conversations), strict=True
        ):
            assert isinstance(own, str)
            if conversation["leading_bos_removed"]:
                assert own.startswith(template.bos_token)
                own = own.removeprefix(template.bos_token)
            assert own == conversation["rendered"], (case["family"], conversation["name"])
            count += 1
    assert count >= 48


def test_families_are_recognised_by_the_template_alone(golden: Path) -> None:
    found = {}
    for case in load_templates(golden):
        family = recognise_family(case["jinja"])
        found[case["family"]] = family.name if family is not None else None
    assert found == {
        "alpaca": "alpaca",
        "chatml": "chatml",
        "chatml-default-system": "chatml",
        "deepseek-r1": "deepseek-r1",
        "gemma": "gemma",
        "llama3": "llama3",
        "llama3-no-add-bos": "llama3",
        "llama3-tools": "llama3",
        "mistral": "mistral",
        "phi3": "phi3",
        "turn-tags": None,
        "zephyr": "zephyr",
    }


def test_every_family_is_complete() -> None:
    assert len(families()) >= 9
    names: list[str] = []
    for name, family in families().items():
        names += [name, *family.aliases]
        assert family.template and family.stops and family.end and family.source and family.title
        assert family.markers
        text = (data_folder("modelfiles") / name / "Modelfile").read_text(encoding="utf-8")
        assert text.startswith("# ")
        assert read_modelfile(data_folder("modelfiles") / name / "Modelfile").last("model") == "./model.gguf"
        assert find_family(name.upper()) is family
    assert len(names) == len(set(names))
    with pytest.raises(UsageError) as caught:
        find_family("nonsense")
    assert "chatml" in str(caught.value.params["known"])


def test_hugging_face_extras() -> None:
    text = "{%- for m in messages %}{% if m.role == 'x' %}{% continue %}{% endif %}"
    text += "{% generation %}{{ m | tojson }}{% endgeneration %}{% endfor %}{{ strftime_now('%Y')[:2] }}"
    messages = [{"role": "x", "content": ""}, {"role": "user", "content": "<é>'"}]
    assert render(Template(text), messages) == '{"role": "user", "content": "<é>\'"}20'
    with pytest.raises(TemplateError) as caught:
        render(Template("{{ raise_exception('no system role') }}"), [])
    assert "no system role" in caught.value.reason


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'a' * 100000000 }}",
        "{{ [0] * 100000000 }}",
        "{{ 10 ** 10 ** 8 }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% for x in",
        "{{ undefined_function() }}",
        "{% set a = 'x' * 1000000 %}{% for i in range(1000) %}{{ a }}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ range(10000000) | list }}",
    ],
)
def test_hostile_templates_are_refused(text: str) -> None:
    (result,) = render_isolated(Template(text), [[{"role": "user", "content": "x"}]])
    assert isinstance(result, TemplateError)
    assert result.reason


def test_a_template_without_end_is_stopped() -> None:
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = 1 %}{% endfor %}{% endfor %}"
    started = time.monotonic()
    with pytest.raises(TemplateError):
        render_isolated(Template(loop), [[]], deadline_seconds=1.5)
    assert time.monotonic() - started < 10


# What a Go template of servers before 0.30 cannot do, or what the recorded template adds to its family.
_DIFFERENT = {
    "chatml-default-system": "a default system prompt, and trimmed contents",
    "deepseek-r1/multi-turn": "earlier reasoning is cut out of the history",
    "llama3-no-add-bos": "the template writes BOS itself",
    "llama3-tools": "an empty system turn, and trimmed contents",
    "llama3/system-user": "trimmed contents",
    "gemma/system-user": "trimmed contents",
}


def test_go_templates_render_what_the_models_own_templates_render(golden: Path) -> None:
    from rfctl.engine.ollama.go_execute import execute
    from rfctl.engine.ollama.go_template import parse

    equal = 0
    for case in load_templates(golden):
        family = recognise_family(case["jinja"])
        if family is None:
            continue
        template = parse(family.template)
        for conversation in case["conversations"]:
            messages = conversation["messages"]
            data = {
                "Messages": [{"Role": m["role"], "Content": m["content"]} for m in messages],
                "System": "\n\n".join(m["content"] for m in messages if m["role"] == "system"),
                "Prompt": "",
                "Response": "",
            }
            rendered = execute(template, data)
            if f"{case['family']}/{conversation['name']}" in _DIFFERENT:
                assert rendered != conversation["rendered"]
                continue
            if case["family"] in _DIFFERENT:
                continue
            assert rendered == conversation["rendered"], (family.name, conversation["name"])
            equal += 1
    assert equal >= 29


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")
def test_a_limit_that_the_system_refuses_does_not_end_the_child() -> None:
    def lower() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(
                24, 24, 0, 0, 0
            )  # PR_CAPBSET_DROP, CAP_SYS_RESOURCE: else root may raise it

    order = {
        "text": "{{ messages[0].content }}",
        "bos_token": "",
        "eos_token": "",
        "conversations": [[{"role": "user", "content": "x"}]],
        "tools": [],
        "add_generation_prompt": False,
    }
    done = subprocess.run(
        [sys.executable, "-m", "rfctl.ollama.template"],
        input=json.dumps(order).encode(),
        capture_output=True,
        check=False,
        preexec_fn=lower,
    )
    assert (done.returncode, done.stdout) == (0, b'[{"text": "x"}]'), done.stderr
