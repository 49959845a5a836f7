"""The Modelfile lint: every recorded case, and each finding with its fix."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_file import CHATML, write_gguf
from test_modelfile import load_cases, source_of

from rfctl.core.catalog import LANGUAGES, render
from rfctl.ollama.lint import LintReport, Severity, lint_modelfile

NOWHERE = Path("no-such-folder")


def lint(text: str, folder: Path = NOWHERE) -> LintReport:
    return lint_modelfile(text.encode(), folder)


def test_every_recorded_case_is_read_as_ollama_reads_it(golden: Path) -> None:
    for case in load_cases(golden):
        source = source_of(case)
        report = lint_modelfile(source.encode() if isinstance(source, str) else source, NOWHERE)
        if "error" in case:
            assert report.error == case["error"]
            assert report.has_error
            if case["error"].startswith("(line "):
                assert case["error"].startswith(f"(line {report.line})")
            continue
        assert report.error == ""
        assert [{"name": c.name, "args": c.args} for c in report.commands] == case["commands"]


@pytest.mark.parametrize(
    ("text", "id", "line", "severity"),
    [
        ("SYSTEM x\n", "lint.no-from", 0, "error"),
        ("FROM a\nNONSENSE x\n", "lint.syntax", 2, "error"),
        ("FROM a\r\n\r\nPARAMETER Num_Ctx 5\r\n", "lint.parameter-unknown", 3, "error"),
        ("FROM a\nPARAMETER tfs_z 1\n", "lint.parameter-unknown", 2, "error"),
        ("FROM a\nPARAMETER mirostat 1\n", "lint.parameter-deprecated", 2, "warning"),
        ("FROM a\nPARAMETER num_ctx 4096 # big\n", "lint.parameter-type", 2, "error"),
        ("FROM a\nPARAMETER top_p 1\nPARAMETER top_p 2\n", "lint.repeated", 3, "warning"),
        ('FROM a\nSYSTEM """a\nb"""\nSYSTEM b\n', "lint.repeated", 4, "warning"),
        ("FROM a\nREQUIRES new\n", "lint.requires", 2, "error"),
        ("FROM a\nADAPTER b\n", "lint.adapter", 2, "warning"),
        ("FROM ./absent.gguf\n", "lint.from-missing", 1, "error"),
        ("FROM a\nSYSTEM Be kind # always\n", "lint.comment", 2, "warning"),
        ("FROM a\nSYSTEM 'Be kind'\n", "lint.single-quotes", 2, "warning"),
        ("FROM a\nSYSTEM 你好\u3000世界\n", "lint.characters", 2, "warning"),
        ('FROM a\nSYSTEM """\nx\u00a0y"""\n', "lint.characters", 3, "warning"),
        ('FROM a\nSYSTEM say """ now\n', "lint.triple-quotes", 2, "warning"),
        ("FROM a\nTEMPLATE hello\n", "lint.template-silent", 2, "error"),
        ("FROM a\nTEMPLATE {{ .Prompt }}\n", "lint.template-stop", 2, "warning"),
        ("FROM a\n", "lint.num-ctx-missing", 0, "warning"),
    ],
)
def test_each_fault_is_found_at_its_line_with_a_fix(text: str, id: str, line: int, severity: str) -> None:
    report = lint(text)
    finding = next((item for item in report.findings if item.id == id), None)
    assert finding is not None, report.findings
    assert (finding.severity.value, finding.line) == (severity, line)
    for language in LANGUAGES:
        rendered = render(id, language, finding.params)
        assert rendered.next
        assert "{" not in rendered.message + rendered.next


def test_a_sound_file_has_no_finding(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    text = "# no\u00a0break\nFROM ./m.gguf\nPARAMETER num_ctx 4096\nSYSTEM Be brief.\n"
    assert lint(text, tmp_path).findings == ()


def ids(report: LintReport) -> set[str]:
    return {finding.id for finding in report.findings}


def test_the_model_behind_from_is_looked_into(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", context=2048)
    assert ids(lint("FROM m.gguf\nPARAMETER num_ctx 4096\n", tmp_path)) == {"lint.num-ctx-above"}
    missing = lint("FROM m.gguf\n", tmp_path).findings[0]
    assert (missing.id, missing.params["value"]) == ("lint.num-ctx-missing", 2048)
    tools = CHATML + "{# tools #}"
    write_gguf(tmp_path / "tools.gguf", template=tools)
    text = "FROM tools.gguf\nPARAMETER num_ctx 64\nPARAMETER stop x\nTEMPLATE {{ .Prompt }}\n"
    assert ids(lint(text, tmp_path)) == {"lint.template-ignored"}
    assert ids(lint(text.replace("{{ .P", "{{ .Tools }}{{ .P"), tmp_path)) == set()
    write_gguf(tmp_path / "bare.gguf", template="")
    assert ids(lint("FROM bare.gguf\nPARAMETER num_ctx 64\n", tmp_path)) == {"lint.template-none"}
    plain = CHATML.replace("<|im_end|>", "<end>")
    write_gguf(tmp_path / "plain.gguf", template=plain)
    assert ids(lint("FROM plain.gguf\nPARAMETER num_ctx 64\n", tmp_path)) == {"lint.stop-missing"}
    assert ids(lint("FROM plain.gguf\nPARAMETER num_ctx 64\nPARAMETER stop <end>\n", tmp_path)) == set()
    write_gguf(
        tmp_path / "far.gguf",
        template=plain,
        tokens=("<unk>", "<|im_start|>", "<end>"),
        control=("<unk>", "<end>"),
        eos=0,
    )
    assert ids(lint("FROM far.gguf\nPARAMETER num_ctx 64\n", tmp_path)) == {"lint.end-unreachable"}
    (tmp_path / "broken.gguf").write_bytes(b"GGUF\x03")
    assert "lint.from-broken" in ids(lint("FROM broken.gguf\n", tmp_path))
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "model.safetensors").write_bytes(b"")
    assert "lint.safetensors" in ids(lint("FROM hf\nPARAMETER num_ctx 64\n", tmp_path))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=200).map(lambda text: f"FROM a\n{text}".encode()))
def test_no_file_breaks_the_lint(data: bytes) -> None:
    report = lint_modelfile(data, NOWHERE)
    assert bool(report.error) <= report.has_error
    assert all(isinstance(finding.severity, Severity) for finding in report.findings)


def test_the_command_prints_commands_or_the_error(rfctl: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text("FROM a\nPARAMETER num_ctx 64\nMESSAGE user hi\n", encoding="utf-8")
    done = rfctl("model", "lint", "Modelfile")
    assert (done.code, done.out) == (0, "Modelfile: 3 commands, nothing to object to\n")
    document = json.loads(rfctl("model", "lint", "Modelfile", "--json").out)
    assert document["commands"] == [
        {"name": "model", "args": "a"},
        {"name": "num_ctx", "args": "64"},
        {"name": "message", "args": "user: hi"},
    ]
    (tmp_path / "Modelfile").write_text("FROM a\nTEMPLATE {{ if }}\nPARAMETER seed x\n", encoding="utf-8")
    done = rfctl("model", "lint", "Modelfile")
    assert done.code == 5
    assert "error[lint.parameter-type]: line 3: PARAMETER seed: x is not of the type int" in done.out
    assert "error[lint.template-broken]: line 2" in done.out
    broken = rfctl("model", "lint", "-", "--json", stdin="FROM a\n\nNOPE x\n")
    document = json.loads(broken.out)
    assert broken.code == 5
    assert document["line"] == 3
    assert document["error"].startswith("(line 3): command must be one of")
    assert "commands" not in document
    absent = rfctl("model", "lint", "absent")
    assert (absent.code, "error[lint.unreadable]" in absent.err) == (2, True)
