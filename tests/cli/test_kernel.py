"""The command line itself: whole output and exit code, no heavy import, errors that help."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rfctl.cli.root import NOUNS, VERBS

Run = Callable[..., object]

HEAVY = (
    "numpy",
    "requests",
    "ollama",
    "ragflow_sdk",
    "huggingface_hub",
    "gguf",
    "httpx",
    "rich",
    "tokenizers",
    "xllamacpp",
    "starlette",
    "jinja2",
    "pypdfium2",
    "pydantic",
)


def test_help_lists_every_command_and_imports_nothing_heavy(environment: dict[str, str]) -> None:
    program = (
        "import sys\n"
        "from rfctl.cli.main import execute\n"
        "code = execute(['--help'])\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print('HEAVY', heavy, code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout.rstrip().endswith("HEAVY [] 0")
    for name in [*NOUNS, *VERBS]:
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize("noun", sorted(NOUNS))
def test_every_noun_explains_its_verbs_in_both_languages(rfctl: Run, noun: str) -> None:
    for language in ("en", "zh"):
        result = rfctl("--lang", language, noun, "--help")
        assert result.code == 0
        for verb in NOUNS[noun]:
            line = next(line for line in result.out.splitlines() if line.startswith(f"  {verb} "))
            text = line.split(maxsplit=1)[1]
            assert any("\u4e00" <= char <= "\u9fff" for char in text) is (language == "zh")


@pytest.mark.parametrize(
    ("noun", "verb"), [(noun, verb) for noun, verbs in sorted(NOUNS.items()) for verb in verbs]
)
def test_every_verb_has_help(rfctl: Run, noun: str, verb: str) -> None:
    result = rfctl(noun, verb, "--help")
    assert result.code == 0, result.err
    assert result.out.startswith(f"Usage: rfctl {noun} {verb} ")
    assert "--json" in result.out


def test_config_show_origin(rfctl: Run) -> None:
    result = rfctl("config", "show", "--origin", env={"OLLAMA_HOST": "0.0.0.0:11434"})
    assert result.err == ""
    assert result.code == 0
    assert result.out == (
        "SETTING       VALUE          ORIGIN\n"
        "language      en             RFCTL_LANG\n"
        "profile       -              default\n"
        "ollama.url    0.0.0.0:11434  OLLAMA_HOST\n"
        "ollama.store  -              default\n"
        "ragflow.url   -              default\n"
        "kb.default    -              default\n"
        "chat.default  -              default\n"
        "hub.endpoint  -              default\n"
        "keyring       off            RFCTL_KEYRING\n"
    )


def test_config_set_keeps_comments_and_says_unchanged(rfctl: Run, environment: dict[str, str]) -> None:
    path = f"{environment['RFCTL_HOME']}/config/config.toml"
    assert rfctl("config", "set", "kb.default", "manuals").out == f"kb.default = manuals is now in {path}\n"
    with open(path, "a", encoding="utf-8") as file:
        file.write("# my own remark\n")
    again = rfctl("config", "set", "kb.default", "manuals")
    assert (again.code, again.out) == (0, f"kb.default: nothing to change in {path}\n")
    assert rfctl("config", "set", "chat.default", "helper").code == 0
    with open(path, encoding="utf-8") as file:
        assert "# my own remark" in file.read()
    assert rfctl("config", "unset", "kb.default").out == f"kb.default was removed from {path}\n"
    settings = json.loads(rfctl("config", "show", "--json").out)["settings"]
    assert [one["value"] for one in settings if one["name"] == "chat.default"] == ["helper"]


def test_an_unknown_setting_is_an_error_with_a_suggestion(rfctl: Run) -> None:
    result = rfctl("config", "set", "olama.url", "x")
    assert result.code == 2
    assert result.out == ""
    assert result.err == (
        "error[config.key-unknown]: There is no setting called olama.url\n"
        "  why: Did you mean ollama.url?\n"
        "  next: rfctl config show\n"
        "  rfctl explain config.key-unknown\n"
    )


def test_a_broken_settings_file_is_reported_in_the_users_language(
    rfctl: Run, environment: dict[str, str]
) -> None:
    folder = f"{environment['RFCTL_HOME']}/config"
    os.makedirs(folder)
    with open(f"{folder}/config.toml", "w", encoding="utf-8") as file:
        file.write("profile = \n")
    result = rfctl("config", "show", "--lang", "zh")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"错误[config.file-broken]: 无法读取 {folder}/config.toml\n")


def test_an_error_in_json_mode_is_one_line_on_stderr(rfctl: Run) -> None:
    result = rfctl("profile", "use", "nowhere", "--json", "--lang", "zh")
    assert result.code == 2
    assert result.out == ""
    assert result.err.count("\n") == 1
    error = json.loads(result.err)["error"]
    assert error["id"] == "config.profile-unknown"
    assert error["message"] == "没有名为 nowhere 的配置档"
    assert error["message_en"] == "There is no profile called nowhere"
    assert error["exit_code"] == 2


def test_usage_errors_name_the_nearest_command(rfctl: Run) -> None:
    result = rfctl("config", "shw")
    assert result.code == 2
    assert result.err == (
        "error[cli.command-unknown]: rfctl config has no command shw\n"
        "  next: rfctl config show\n"
        "  rfctl explain cli.command-unknown\n"
    )


@pytest.mark.parametrize(
    ("arguments", "id", "next"),
    [
        (("modle",), "cli.command-unknown", "rfctl model"),
        (("model", "zzz"), "cli.command-unknown", "rfctl model --help"),
        (("model", "push", "--quantise", "q8_0", "x"), "cli.option-unknown", "rfctl model push --quantize"),
        (("kb", "search", "--top", "3", "x"), "cli.option-unknown", "rfctl kb search --help"),
        (("model", "push", "--ctx", "3", "x"), "cli.option-unknown", "rfctl model push --num-ctx"),
        (("model", "check"), "cli.value-missing", "rfctl model check --help"),
        (("model", "--quiet"), "cli.command-missing", "rfctl model --help"),
        (("model", "show", "a", "b"), "cli.argument-extra", "rfctl model show --help"),
        (("model", "push", "x", "--via", "ftp"), "cli.value-choice", "rfctl model push --help"),
        (("kb", "search", "x", "--limit", "0"), "cli.value-range", "rfctl kb search --help"),
        (("model", "convert", "x", "--threads", "0"), "cli.value-least", "rfctl model convert --help"),
        (("kb", "upload", "x", "--kb"), "cli.option-use", "rfctl kb upload --help"),
    ],
)
def test_a_wrong_command_line_is_an_error_in_the_users_language_and_form(
    rfctl: Run, arguments: tuple[str, ...], id: str, next: str
) -> None:
    for where in (0, len(arguments) - 1):
        result = rfctl(*arguments[:where], "--json", "--lang", "zh", *arguments[where:])
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        error = json.loads(result.err)["error"]
        assert (error["id"], error["next"]) == (id, next)
        assert any("\u4e00" <= char <= "\u9fff" for char in error["message"])


@pytest.mark.parametrize(
    ("arguments", "id", "code"),
    [
        (("model", "push", "m.gguf", "x", "--modelfile", "no/file"), "core.file-missing", 2),
        (("model", "push", "m.gguf", "x", "--modelfile", "."), "core.file-is-folder", 2),
        (("model", "check", "x" * 300), "core.name-too-long", 1),
    ],
)
def test_what_the_system_refuses_is_no_bug(
    rfctl: Run, arguments: tuple[str, ...], id: str, code: int
) -> None:
    result = rfctl(*arguments)
    assert result.code == code, result.err
    assert result.err.startswith(f"error[{id}]: ")
    assert result.err.count("\n") <= 8


def test_a_home_that_is_a_file_is_no_bug(rfctl: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    result = rfctl("engine", "start", env={"RFCTL_HOME": str(tmp_path / "file")})
    assert result.code == 2, result.err
    assert result.err.startswith("error[core.home-unusable]: ")


@pytest.mark.parametrize(("language", "heading"), [("en", "Commands"), ("zh", "命令")])
def test_a_noun_alone_shows_all_its_verbs(rfctl: Run, language: str, heading: str) -> None:
    result = rfctl("--lang", language, "model")
    assert (result.code, result.out) == (2, "")
    assert result.err == rfctl("model", "--help", "--lang", language).out
    assert f"\n{heading}:\n  check " in result.err
    assert "\n  bundle " in result.err


def test_a_page_of_help_is_in_one_language(rfctl: Run) -> None:
    page = rfctl("--lang", "zh", "doctor", "--help").out
    assert page.startswith("用法: rfctl doctor [OPTIONS]\n")
    assert "分组：host、docker" in page
    assert "显示此帮助" in page
    assert "Groups: host, docker" in rfctl("doctor", "--help").out
    push = rfctl("model", "push", "--help").out
    assert push.count("DIR_OR_GGUF") == 1, "an argument is no option"
    usage = push.index("rfctl model push [OPTIONS] DIR_OR_GGUF")
    assert push.index("\nOptions:\n  --quantize, --outtype TYPE") > usage


def test_version_json(rfctl: Run) -> None:
    result = rfctl("--version", "--json")
    assert result.code == 0
    report = json.loads(result.out)
    assert report["schema_version"] == 1
    assert report["converter_reference"] == {"llama.cpp": "b11434", "transformers": "4.57.6"}
    assert report["packages"]["ragflow-sdk"].startswith("0.27.")
    assert set(report["kernels"]) >= {"F16", "BF16", "Q8_0", "Q4_K", "Q6_K"}
    assert "none" not in report["kernels"].values()
    assert rfctl("--version").out == f"rfctl {report['version']}\n"


def test_rfctl_alone_says_the_state_and_the_next_command(rfctl: Run) -> None:
    result = rfctl()
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[1:3] == [
        "  models: embedded engine (starts by itself when needed)",
        "  knowledge bases: embedded engine (starts by itself when needed)",
    ]
    assert lines[4].startswith("  rfctl demo ")
    assert json.loads(rfctl("--json").out)["next"] == "rfctl demo"


def test_profiles(rfctl: Run) -> None:
    assert rfctl("profile", "add", "gpu", "--ollama", "gpu:11434").err.startswith(
        "error[profile.url-invalid]: gpu:11434 is not an http(s) address\n"
    )
    assert rfctl("profile", "add", "gpu", "--ollama", "http://gpu:11434").code == 0
    assert rfctl("profile", "use", "gpu").code == 0
    assert rfctl("profile", "ls").out == (
        "   NAME      OLLAMA            RAGFLOW\n"
        "   embedded  embedded          embedded\n"
        "*  gpu       http://gpu:11434  embedded\n"
    )
    assert rfctl("profile", "rm", "gpu").out == "Profile gpu was removed\n"
    assert rfctl("profile", "ls").out == "   NAME      OLLAMA    RAGFLOW\n*  embedded  embedded  embedded\n"


@pytest.mark.parametrize(
    ("key", "value", "id"),
    [
        ("profile", "gone", "config.profile-unknown"),
        ("language", "fr", "config.value-choice"),
        ("hub.endpoint", "hf-mirror.com", "profile.url-invalid"),
    ],
)
def test_a_setting_that_would_break_every_command_is_not_written(
    rfctl: Run, key: str, value: str, id: str
) -> None:
    result = rfctl("config", "set", key, value)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"error[{id}]: ")
    assert "fr" not in rfctl("config", "show", "--origin").out.split()
    assert rfctl("config", "set", "language", "zh_CN").code == 0


def test_the_profiles_are_listed_while_the_one_in_use_is_not_there(rfctl: Run) -> None:
    env = {"RFCTL_PROFILE": "gone"}
    result = rfctl("profile", "ls", env=env)
    assert (result.code, result.out) == (
        0,
        "  NAME      OLLAMA    RAGFLOW\n  embedded  embedded  embedded\n",
    )
    assert "next: rfctl profile use embedded" in rfctl("model", "ls", env=env).err
    assert rfctl("profile", "add", "a b").err.startswith("error[profile.name-invalid]: ")


def test_a_key_comes_from_standard_input_and_is_not_shown(rfctl: Run) -> None:
    key = "ragflow-" + "x" * 43
    env = {"RAGFLOW_BASE_URL": "http://rag.example:9380"}
    result = rfctl("auth", "login", "ragflow", env=env, stdin=key + "\n")
    assert result.code == 0
    assert result.out.startswith("The API key for http://rag.example:9380 is stored in ")
    assert key not in result.out + result.err
    assert rfctl("auth", "login", env=env, stdin="not a key\n").code == 2
    assert rfctl("auth", "logout", env=env).out == "The API key for http://rag.example:9380 was removed\n"
    assert rfctl("auth", "login", stdin=key).err.startswith("error[auth.embedded]")


def test_explain(rfctl: Run) -> None:
    assert rfctl("explain", "config.credentials-open").out == (
        "config.credentials-open: {path} can be read by other users\n"
        "  why: It holds API keys\n"
        "  next: chmod 600 {path}\n"
    )
    assert rfctl("explain", "config.credential-open").err == (
        "error[cli.id-unknown]: There is no error or finding called config.credential-open\n"
        "  why: The closest one is config.credentials-open\n"
        "  next: rfctl explain config.credentials-open\n"
        "  rfctl explain cli.id-unknown\n"
    )
    far = rfctl("explain", "NOSUCH")
    assert far.code == 2
    assert far.err.startswith("error[cli.id-unlike]: There is no error or finding called NOSUCH\n")
    assert " -\n" not in far.err


@pytest.mark.parametrize("encoding", ["gbk", "ascii", "cp1252"])
def test_narrow_consoles_do_not_crash(environment: dict[str, str], encoding: str) -> None:
    env = environment | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "RFCTL_LANG": "zh"}
    done = subprocess.run(
        [sys.executable, "-m", "rfctl.cli.main", "--help"], env=env, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode(encoding, errors="replace")
    assert ("知识库" in text) is (encoding == "gbk")
    assert "rfctl [OPTIONS]" in text


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_closed_pipe_is_not_a_traceback(environment: dict[str, str]) -> None:
    shell = f"{sys.executable} -m rfctl.cli.main config show --json | head -c 1; sleep 0.2"
    done = subprocess.run(["bash", "-c", shell], env=environment, capture_output=True, check=False)
    assert done.stdout == b"{"
    assert b"Traceback" not in done.stderr


def test_help_is_quick_relative_to_bare_python(environment: dict[str, str]) -> None:
    def best(arguments: list[str]) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=True)
            times.append(time.perf_counter() - start)
        return min(times)

    assert best(["-m", "rfctl.cli.main", "--help"]) < 12 * best(["-c", "import json, click"])
