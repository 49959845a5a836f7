"""Settings: where each value may come from, and which source won.

Order: flag > RFCTL_* variable > ecosystem variable > project file (`rfctl.toml`, nearest parent) >
user file (`config.toml`) > default. The environment is passed in, never read here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rfctl.core.error import UsageError
from rfctl.core.near import find_near

PROJECT_FILE = "rfctl.toml"
USER_FILE = "config.toml"
EMBEDDED = "embedded"


@dataclass(frozen=True)
class Key:
    """A setting: dotted name, variables that may hold it (own first), default, allowed values."""

    name: str
    variables: tuple[str, ...]
    default: str = ""
    choices: tuple[str, ...] = ()


KEYS: tuple[Key, ...] = (
    Key("language", ("RFCTL_LANG", "LC_ALL", "LC_MESSAGES", "LANG"), "en"),
    Key("profile", ("RFCTL_PROFILE",)),
    Key("ollama.url", ("RFCTL_OLLAMA_URL", "OLLAMA_HOST")),
    Key("ollama.store", ("RFCTL_OLLAMA_STORE", "OLLAMA_MODELS")),
    Key("ragflow.url", ("RFCTL_RAGFLOW_URL", "RAGFLOW_BASE_URL")),
    Key("kb.default", ("RFCTL_KB",)),
    Key("chat.default", ("RFCTL_CHAT",)),
    Key("hub.endpoint", ("RFCTL_HUB_ENDPOINT", "HF_ENDPOINT")),
    Key("keyring", ("RFCTL_KEYRING",), "auto", ("auto", "off")),
)
_BY_NAME = {key.name: key for key in KEYS}
_PROFILE_KEYS = ("ollama_url", "ragflow_url")


@dataclass(frozen=True)
class Value:
    """A resolved setting: the text and the place it came from, e.g. `OLLAMA_HOST` or a file path."""

    name: str
    value: str
    origin: str


@dataclass(frozen=True)
class Profile:
    """Two services under one name; an empty URL means the embedded engine."""

    name: str
    ollama_url: str = ""
    ragflow_url: str = ""


@dataclass(frozen=True)
class Settings:
    """All settings of one command, with the files that were looked in."""

    values: Mapping[str, Value]
    profiles: Mapping[str, Profile]
    user_file: Path
    project_file: Path | None = None
    searched: tuple[str, ...] = field(default=())

    def get(self, name: str) -> str:
        return self.values[name].value

    @property
    def language(self) -> str:
        """ "zh" when the value names Chinese, else "en"."""
        return "zh" if self.get("language").lower().startswith("zh") else "en"

    @property
    def uses_keyring(self) -> bool:
        """Whether the system's keyring may be asked for secrets."""
        return self.get("keyring").lower() not in ("off", "no", "false", "0")

    def endpoints(self) -> Profile:
        """The services the command talks to.

        A named profile decides alone; without one each service is taken from its own setting, and what is
        not configured anywhere is the embedded engine. Raises UsageError for an unknown profile.
        """
        name = self.get("profile")
        if name == EMBEDDED:
            return Profile(EMBEDDED)
        if name:
            if name not in self.profiles:
                names = [EMBEDDED, *self.profiles]
                raise UsageError(
                    "config.profile-unknown",
                    profile=name,
                    known=", ".join(names),
                    near=find_near(name, names),
                )
            return self.profiles[name]
        urls = (self.get("ollama.url"), self.get("ragflow.url"))
        return Profile("" if any(urls) else EMBEDDED, *urls)


def find_project_file(start: Path) -> Path | None:
    """The nearest `rfctl.toml` in `start` or a parent, or None."""
    for folder in (start, *start.parents):
        candidate = folder / PROJECT_FILE
        if candidate.is_file():
            return candidate
    return None


def resolve(
    flags: Mapping[str, str], environ: Mapping[str, str], folder: Path, user_folder: Path
) -> Settings:
    """Resolve every key. Raises UsageError for unreadable files, unknown keys and wrong types."""
    user_file = user_folder / USER_FILE
    project_file = find_project_file(folder)
    user = _read(user_file)
    project = _read(project_file) if project_file is not None else _Document({}, {})
    values = {}
    for key in KEYS:
        values[key.name] = _choose(key, flags, environ, ((project, project_file), (user, user_file)))
    return Settings(
        values=values,
        profiles=user.profiles | project.profiles,
        user_file=user_file,
        project_file=project_file,
    )


def resolve_language(flags: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """Language for messages about settings that could not be read: flag > environment > English."""
    return _catalog_language(_choose(_BY_NAME["language"], flags, environ, ()).value)


def _catalog_language(name: str) -> str:
    return "zh" if name.lower().startswith("zh") else "en"


def check_key(name: str) -> None:
    """Raise UsageError unless `name` is a setting or `profiles.NAME.ollama_url|ragflow_url`."""
    parts = name.split(".")
    if name in _BY_NAME:
        return
    if len(parts) == 3 and parts[0] == "profiles" and parts[1] and parts[2] in _PROFILE_KEYS:
        return
    raise UsageError("config.key-unknown", key=name, near=find_near(name, _BY_NAME) or ", ".join(_BY_NAME))


@dataclass(frozen=True)
class _Document:
    values: dict[str, str]
    profiles: dict[str, Profile]


def _read(path: Path) -> _Document:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return _Document({}, {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError("config.file-broken", path=path, detail=str(error)) from error
    values: dict[str, str] = {}
    profiles: dict[str, dict[str, str]] = {}
    for name, value in _flatten(tree):
        try:
            check_key(name)
        except UsageError as error:
            raise UsageError(
                "config.key-unknown-in-file", path=path, key=name, near=error.params.get("near")
            ) from None
        if not isinstance(value, str):
            raise UsageError("config.value-not-text", path=path, key=name)
        if name.startswith("profiles."):
            _, profile, key = name.split(".")
            profiles.setdefault(profile, {})[key] = value
        else:
            values[name] = value
    return _Document(values, {name: Profile(name, **urls) for name, urls in profiles.items()})


def _flatten(tree: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    flat: list[tuple[str, object]] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat += _flatten(value, name + ".")
        else:
            flat.append((name, value))
    return flat


def _choose(
    key: Key,
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    documents: Sequence[tuple[_Document, Path | None]],
) -> Value:
    if key.name in flags:
        return Value(key.name, flags[key.name], "flag")
    for variable in key.variables:
        if text := environ.get(variable, "").strip():
            return Value(key.name, text, variable)
    for document, path in documents:
        if key.name in document.values:
            return Value(key.name, document.values[key.name], str(path))
    return Value(key.name, key.default, "default")
