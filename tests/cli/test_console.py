"""Consoles of another encoding, narrow ones, pipes: readable, aligned, and never a crash."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfctl.cli.console import can_show, cell_width, soften, wrap
from rfctl.cli.root import NOUNS, execute

# What Python makes of a console; the C locale is not taken for UTF-8.
CONSOLES = {
    "gbk": {"PYTHONIOENCODING": "gbk"},
    "cp437": {"PYTHONIOENCODING": "cp437"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "ascii": {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "narrow": {"COLUMNS": "40"},
}


def run(
    environment: dict[str, str], folder: Path, console: str, language: str, *arguments: str
) -> tuple[int, bytes, bytes]:
    done = subprocess.run(
        [sys.executable, "-m", "rfctl.cli.main", *arguments],
        env=environment | {"RFCTL_LANG": language} | CONSOLES[console],
        cwd=folder,
        capture_output=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("console", CONSOLES)
def test_main_commands(environment: dict[str, str], tmp_path: Path, console: str, language: str) -> None:
    (tmp_path / "m").mkdir()
    encoding = {"ascii": "ascii", "narrow": "utf-8"}.get(console, console)
    for line, code in (
        ("config show --origin", 0),
        ("profile ls", 0),
        ("engine status", 0),
        ("model check m", 5),
        ("explain model.not-finite", 0),
        ("profile use nowhere", 2),
    ):
        ended, out, error = run(environment, tmp_path, console, language, *line.split())
        assert ended == code, (line, error)
        text = (out + error).decode(encoding)
        assert "Traceback" not in text
        assert text.count("?") <= text.count("Did you mean"), (line, text)
        assert ("\u4e00" <= max(text) <= "\uffff") is (language == "zh" and console in ("gbk", "narrow")), (
            line
        )


def test_json_is_utf8_everywhere(environment: dict[str, str], tmp_path: Path) -> None:
    for console in CONSOLES:
        code, out, error = run(environment, tmp_path, console, "zh", "profile", "use", "x", "--json")
        assert (code, out) == (2, b"")
        assert "没有名为 x 的配置档".encode() in error


@pytest.mark.parametrize("noun", sorted(NOUNS))
def test_help_fits_a_narrow_console(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, noun: str
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for language in ("en", "zh"):
        assert execute([noun, "--help", "--lang", language]) == 0
        page = capsys.readouterr().out.splitlines()
        # click never makes a page narrower than 50.
        assert max(cell_width(line) for line in page) <= 52


def test_symbols_have_plain_forms_of_their_own() -> None:
    binary = io.BytesIO()
    stream = io.TextIOWrapper(binary, encoding="ascii", newline="")
    soften(stream)
    stream.write("Writing … a → b × 2 ✓ ✗ “x” 说明书.txt ≥")
    stream.flush()
    assert binary.getvalue() == b'Writing ... a -> b x 2 ok x "x" ??????.txt >='
    gbk = io.TextIOWrapper(binary := io.BytesIO(), encoding="gbk", newline="")
    soften(gbk)
    gbk.write("说明 √ × → … ● ✓ ⚠ \U0001f600|")
    gbk.flush()
    assert binary.getvalue() == "说明 √ × → … ● ok ! ??|".encode("gbk")
    assert can_show(gbk, "中文") and not can_show(stream, "中文")


def test_a_table_stays_aligned_where_names_cannot_be_shown(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "rfctl.toml").write_text('[kb]\ndefault = "说明书"\n', "utf-8")
    code, out, _ = run(environment, tmp_path, "cp437", "en", "config", "show", "--origin")
    assert code == 0
    lines = out.decode("cp437").splitlines()
    (named,) = [line for line in lines if line.startswith("kb.default")]
    assert named == f"kb.default    ??????  {tmp_path / 'rfctl.toml'}"
    assert lines[0] == "SETTING       VALUE   ORIGIN"


@pytest.mark.skipif(os.name == "nt", reason="a pipe of a shell")
def test_no_colour_and_no_bar_in_a_pipe(environment: dict[str, str], tmp_path: Path) -> None:
    plain = {name: value for name, value in environment.items() if name != "NO_COLOR"}
    for arguments in (["--help"], ["profile", "use", "x"], ["doctor", "--only", "host"]):
        _, out, error = run(plain, tmp_path, "narrow", "en", *arguments)
        assert b"\x1b" not in out + error


@given(st.text(alphabet="ab，。（）：默认 xyz中文[]", max_size=60), st.integers(10, 30))
def test_wrapped_text_is_the_same_text(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    for line in lines:
        # Only a word, with the marks that belong to it, may be wider than the page.
        assert cell_width(line) <= width or not any(char.isspace() for char in line.strip())


def test_where_chinese_lines_end() -> None:
    assert wrap("写出的字节与 llama-quantize 相同。", 16) == ["写出的字节与", "llama-quantize", "相同。"]
    assert wrap("一二三四，五六（七八）九", 8) == ["一二三", "四，五六", "（七八）", "九"]
    assert wrap("显示数量。  [默认：6]", 12) == ["显示数量。", "[默认：6]"]
    assert wrap("a b\nc", 10) == ["a b", "c"]
    assert wrap("", 10) == [""]
