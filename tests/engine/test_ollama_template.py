"""Prompts: Go templates of model files, and the jinja of a GGUF as llama.cpp renders it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from engine_process import Engine
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import write_chat_model

from rfctl.core.data import data_folder
from rfctl.engine.failure import ApiError
from rfctl.engine.ollama.go_execute import execute
from rfctl.engine.ollama.go_template import TemplateError, parse
from rfctl.engine.ollama.prompt import cut_tokens, render_go

FAMILIES = ["alpaca", "chatml", "deepseek-r1", "gemma", "llama3", "mistral", "phi3", "zephyr"]
# A Go template of Ollama can neither trim a message nor cut earlier reasoning out of it.
BEYOND_GO = {
    ("gemma", "system-user"),
    ("llama3", "system-user"),
    ("deepseek-r1", "multi-turn"),
}


def recorded(golden: Path, family: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((golden / f"ollama/templates/{family}.json").read_text("utf-8"))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_our_model_files_render_like_the_jinja(golden: Path, family: str) -> None:
    text = (data_folder("modelfiles") / family / "Modelfile").read_text("utf-8")
    template = text.split('TEMPLATE """', 1)[1].split('"""', 1)[0]
    case = recorded(golden, family)
    for conversation in case["conversations"]:
        if (family, conversation["name"]) in BEYOND_GO:
            continue
        found = render_go(template, conversation["messages"])
        assert found in (conversation["rendered"], conversation["rendered"].removeprefix(case["bos_token"]))


def test_llama_cpp_renders_the_jinja_as_recorded(golden: Path, engine: Engine, tmp_path: Path) -> None:
    paths = sorted((golden / "ollama/templates").glob("*.json"))
    assert len(paths) == 12
    for path in paths:
        case = json.loads(path.read_text("utf-8"))
        model = write_chat_model(
            tmp_path / "m.gguf",
            template=case["jinja"],
            bos=case["bos_token"],
            eos=case["eos_token"],
            add_bos=case["add_bos_token"],
        )
        engine.create("template", model)
        with engine.client() as http:
            for conversation in case["conversations"]:
                body = {"model": "template", "messages": conversation["messages"]}
                answer = http.post("/api/chat", json={**body, "_debug_render_only": True}).json()
                assert "_debug_info" in answer, (path.stem, answer)
                found = answer["_debug_info"]["rendered_template"]
                assert found == conversation["rendered"], (path.stem, conversation["name"])


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("{{ .System }}|{{ .Prompt }}|{{ .Response }}", "S|q1|a1|q2|"),
        ("{{ if .System }}<{{ .System }}>{{ end }}[{{ .Prompt }}]", "<S>[q1]a1[q2]"),
        ("{{- range $i, $m := .Messages }}{{ $i }}{{ $m.Role }}{{ end }}", "0system1user2assistant3user"),
        ("{{ range .Messages }}{{ if eq .Role `user` }}{{ .Content }}{{ break }}{{ end }}{{ end }}", "q1"),
        (
            "{{ range .Messages }}{{ if ne .Role `user` }}{{ continue }}{{ end }}{{ .Content }},{{ end }}",
            "q1,q2,",
        ),
        ("{{ $last := `` }}{{ range .Messages }}{{ $last = .Content }}{{ end }}{{ $last }}", "q2"),
        ("{{ with .System }}{{ . }}{{ else }}none{{ end }}{{/* note */}}{{ len .Messages }}", "S4"),
        ("{{ (index .Messages 1).Content | printf `%s!` }} {{- ` x` }}", "q1! x"),
        ("{{ if and .System (not .Tools) }}yes{{ else if .Tools }}no{{ end }}{{ .Messages | len }}", "yes4"),
        (
            "{{ json .Tools }}{{ range .Messages }}{{ end }}{{ slice `abcd` 1 3 }}{{ .Nothing }}",
            "[]bc<no value>",
        ),
        ("{{ range .Messages }}{{ else }}x{{ end }}{{ range .Tools }}{{ else }}empty{{ end }}", "empty"),
        ("a {{- /* c */ -}} b{{ range .Messages }}{{ end }}", "ab"),
    ],
)
def test_go_templates(text: str, rendered: str) -> None:
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "q1"},
        {"role": "assistant", "content": "a1"},
        {"role": "user", "content": "q2"},
    ]
    assert render_go(text, messages) == rendered


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{{ if }", 'template: :1: unexpected "}" in if'),
        ("{{ .Prompt", "template: :1: unclosed action"),
        ("{{ nofunc .Prompt }}", 'template: :1: function "nofunc" not defined'),
        ("\n{{ if .System }}", "template: :2: unexpected EOF"),
        ("{{ end }}", "template: :1: unexpected {{end}}"),
        ("{{ if }}{{ end }}", "template: :1: missing value for if"),
        ("{{ break }}", "template: :1: {{break}} outside {{range}}"),
        ("{{ (.System }}", "template: :1: unclosed left paren"),
        ("{{ ~ }}", 'template: :1: unexpected "~" in command'),
    ],
)
def test_go_parse_errors(text: str, error: str) -> None:
    with pytest.raises(TemplateError) as found:
        parse(text)
    assert str(found.value) == error


@given(
    st.lists(
        st.sampled_from(
            [
                "{{",
                "}}",
                " .A ",
                "if ",
                "range ",
                "end",
                "else ",
                "|",
                "(",
                ")",
                "$x",
                " := ",
                "and ",
                "-",
                '"q"',
                "\n",
            ]
        )
        | st.text(max_size=5),
        max_size=25,
    )
)
def test_any_text_is_refused_or_rendered(pieces: list[str]) -> None:
    try:
        template = parse("".join(pieces))
        execute(template, {"A": ["x", {"B": 1}], "System": ""})
    except TemplateError:
        pass


def test_a_template_cannot_run_for_ever() -> None:
    text = "{{ range .Messages }}" * 12 + "x" + "{{ end }}" * 12
    code = (
        "import sys; from rfctl.engine.ollama.go_execute import execute\n"
        "from rfctl.engine.ollama.go_template import TemplateError, parse\n"
        "items = list(range(100))\n"
        "nested = [[[[[items] * 99] * 99] * 99] * 99] * 99\n"
        "try: execute(parse(sys.argv[1].replace('.Messages', '$.M')), {'M': nested})\n"
        "except TemplateError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, text], capture_output=True, text=True, timeout=60, check=True
    )
    assert "too many steps" in done.stdout


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(TemplateError):
        parse("{{ if .A }}" * 5000)
    with pytest.raises(TemplateError):
        parse("{{ " + "(" * 5000 + " }}")


def test_a_template_that_fails_is_an_error_answer() -> None:
    with pytest.raises(ApiError) as error:
        render_go("{{ .Messages.Role }}", [{"role": "user", "content": "x"}])
    assert error.value.status == 500


@given(st.integers(0, 3000), st.integers(8, 1024), st.integers(-1, 64), st.booleans())
def test_a_cut_prompt_fits_and_keeps_its_ends(
    length: int, num_ctx: int, num_keep: int, has_bos: bool
) -> None:
    tokens = list(range(length))
    cut = cut_tokens(tokens, num_ctx, max(num_keep, 0), has_bos=has_bos)
    assert len(cut) <= num_ctx
    assert cut == sorted(set(cut))
    if length:
        assert cut[-1] == tokens[-1]
    if length < num_ctx:
        assert cut == tokens
