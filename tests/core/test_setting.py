"""Where a setting comes from: one test per step of the order, and the errors of the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from rfctl.core.error import UsageError
from rfctl.core.setting import Profile, resolve


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    user, project = tmp_path / "user", tmp_path / "project" / "deep"
    user.mkdir()
    project.mkdir(parents=True)
    return user, project


def origin(
    name: str, folders: tuple[Path, Path], flags: dict[str, str], environ: dict[str, str]
) -> tuple[str, str]:
    user, project = folders
    value = resolve(flags, environ, project, user).values[name]
    return value.value, value.origin


def test_each_source_wins_over_the_next(folders: tuple[Path, Path]) -> None:
    user, project = folders
    own, ecosystem = {"RFCTL_OLLAMA_URL": "http://own"}, {"OLLAMA_HOST": "http://eco"}
    assert origin("ollama.url", folders, {}, {}) == ("", "default")
    (user / "config.toml").write_text('[ollama]\nurl = "http://user"\n')
    assert origin("ollama.url", folders, {}, {}) == ("http://user", str(user / "config.toml"))
    (project.parent / "rfctl.toml").write_text('[ollama]\nurl = "http://project"\n')
    assert origin("ollama.url", folders, {}, {}) == ("http://project", str(project.parent / "rfctl.toml"))
    assert origin("ollama.url", folders, {}, ecosystem) == ("http://eco", "OLLAMA_HOST")
    assert origin("ollama.url", folders, {}, ecosystem | own) == ("http://own", "RFCTL_OLLAMA_URL")
    assert origin("ollama.url", folders, {"ollama.url": "http://flag"}, own) == ("http://flag", "flag")


@pytest.mark.parametrize(
    ("text", "id", "says"),
    [
        ('[olama]\nurl = "x"\n', "config.key-unknown-in-file", "ollama.url"),
        ("profile = 3\n", "config.value-not-text", "profile"),
        ("profile = \n", "config.file-broken", "config.toml"),
    ],
)
def test_a_wrong_file_is_named(folders: tuple[Path, Path], text: str, id: str, says: str) -> None:
    user, project = folders
    (user / "config.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        resolve({}, {}, project, user)
    assert caught.value.id == id
    shown = caught.value.text()
    assert says in f"{shown.message} {shown.why}"


def test_profiles_decide_alone_and_services_default_to_the_engine(folders: tuple[Path, Path]) -> None:
    user, project = folders
    (user / "config.toml").write_text('[profiles.work]\nollama_url = "http://gpu:11434"\n')
    environ = {"RAGFLOW_BASE_URL": "http://rag"}
    assert resolve({}, {}, project, user).endpoints() == Profile("embedded")
    assert resolve({}, environ, project, user).endpoints() == Profile("", "", "http://rag")
    assert resolve({"profile": "work"}, environ, project, user).endpoints() == Profile(
        "work", "http://gpu:11434"
    )
    assert resolve({"profile": "embedded"}, environ, project, user).endpoints() == Profile("embedded")
    with pytest.raises(UsageError, match="no profile called home"):
        resolve({"profile": "home"}, {}, project, user).endpoints()


@pytest.mark.parametrize(
    ("value", "language"),
    [("zh_CN.UTF-8", "zh"), ("zh", "zh"), ("C.UTF-8", "en"), ("de_DE", "en"), ("", "en")],
)
def test_language(folders: tuple[Path, Path], value: str, language: str) -> None:
    user, project = folders
    assert resolve({}, {"LANG": value}, project, user).language == language
