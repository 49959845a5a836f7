"""The application object: what every command needs, made once per invocation and lazily."""

from __future__ import annotations

import locale
import os
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rfctl.cli.console import can_show
from rfctl.cli.output import Mode, Output
from rfctl.core.directory import Directories, locate
from rfctl.core.error import RfctlError, UnreachableError
from rfctl.core.progress import Reporter
from rfctl.core.setting import Profile, Settings, resolve, resolve_language

if TYPE_CHECKING:
    from rfctl.ollama.client import OllamaClient
    from rfctl.ragflow_client.connection import Ragflow


def environment() -> dict[str, str]:
    """The process environment; on Windows, which sets no LANG, with the language of the user interface."""
    variables = dict(os.environ)
    if os.name == "nt" and not any(variables.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG")):
        name = (locale.getlocale()[0] or "").lower()
        variables["LANG"] = "zh" if name.startswith(("zh", "chinese")) else "en"
    return variables


@dataclass(frozen=True)
class Endpoints:
    """Where the services of this command are. `embedded_*` says that rfctl's own engine answers."""

    profile: str
    ollama_url: str
    ragflow_url: str
    embedded_ollama: bool
    embedded_ragflow: bool


@dataclass
class App:
    """Settings, folders, output and clients for one command."""

    flags: dict[str, str] = field(default_factory=dict)
    engine_url: str = ""  # of the embedded engine, once this command has asked for it

    def set_flag(self, name: str, value: object) -> None:
        """Remember a common option. Must happen before the value is used."""
        self.flags[name] = str(value)
        for cached in ("settings", "out"):
            self.__dict__.pop(cached, None)

    @cached_property
    def directories(self) -> Directories:
        return locate(os.environ)

    @cached_property
    def settings(self) -> Settings:
        """Raises UsageError for a broken file or an unknown key."""
        known = {name: value for name, value in self.flags.items() if name in ("language", "profile")}
        return resolve(known, environment(), Path.cwd(), self.directories.config)

    @property
    def language(self) -> str:
        """Language of messages, also while the settings themselves are broken.

        For people whose console has no Chinese characters it is English: question marks help nobody.
        """
        try:
            language = self.settings.language
        except RfctlError:
            language = resolve_language(self.flags, environment())
        if language == "zh" and self._mode is Mode.HUMAN and not can_show(sys.stdout, "中文"):
            return "en"
        return language

    @property
    def _mode(self) -> Mode:
        mode = Mode(self.flags.get("output", "human"))
        return Mode.JSON if "json" in self.flags and mode is Mode.HUMAN else mode

    @cached_property
    def out(self) -> Output:
        return Output(self._mode, self.language, quiet="quiet" in self.flags)

    def reporter(self) -> Reporter:
        return self.out.reporter()

    # -- services -------------------------------------------------------------------------------

    def endpoints(self) -> Endpoints:
        """The two services; starts the embedded engine when one of them is not configured elsewhere.

        Raises UsageError (configuration), UnreachableError (the engine does not come up).
        """
        profile: Profile = self.settings.endpoints()
        ollama_url, ragflow_url = profile.ollama_url, profile.ragflow_url
        engine_url = ""
        if not ollama_url or not ragflow_url:
            engine_url = self.start_engine()
        if ollama_url:
            from rfctl.ollama.client import normalise_host

            ollama_url = normalise_host(ollama_url)
        return Endpoints(
            profile=profile.name,
            ollama_url=ollama_url or engine_url,
            ragflow_url=ragflow_url or engine_url,
            embedded_ollama=not ollama_url,
            embedded_ragflow=not ragflow_url,
        )

    def start_engine(self) -> str:
        """URL of the embedded engine, which is started when it does not run."""
        from rfctl.engine import daemon

        self.engine_url = daemon.start(self.directories.engine, reporter=self.reporter()).url
        return self.engine_url

    def explain(self, error: UnreachableError) -> UnreachableError:
        """The same error; of our own engine the one that names its log and how to start it again."""
        url = str(error.params.get("url", ""))
        if not self.engine_url or not url.startswith(self.engine_url) or "timeout" in error.id:
            return error
        return UnreachableError("engine.gone", url=self.engine_url, detail=error.params.get("detail", ""))

    def ollama(self) -> OllamaClient:
        """A client for the model server of the current profile; the engine starts only when it is that one.

        OLLAMA_API_KEY goes to a configured server only (a proxy in front of it asks for it).
        """
        from rfctl.ollama.client import OllamaClient

        if url := self.settings.endpoints().ollama_url:
            return OllamaClient(url, token=os.environ.get("OLLAMA_API_KEY", "").strip())
        return OllamaClient(self.start_engine())

    def ragflow(self) -> Ragflow:
        """A client for the RAG server of the current profile. Raises UsageError without an API key."""
        from rfctl.ragflow_client.connection import connect

        endpoints = self.endpoints()
        memory = self.directories.cache / "ragflow-server.json"
        return connect(endpoints.ragflow_url, self.ragflow_key(endpoints), memory=memory)

    def ragflow_key(self, endpoints: Endpoints) -> str:
        from rfctl.core.credential import FILE_NAME, find_ragflow_key
        from rfctl.core.error import UsageError

        if endpoints.embedded_ragflow:
            from rfctl.engine import daemon

            return daemon.read_api_key(self.directories.engine)
        folder = self.directories.config
        credential = find_ragflow_key(
            endpoints.ragflow_url, os.environ, folder, keyring=self.settings.uses_keyring
        )
        if credential is None:
            raise UsageError("config.key-missing", url=endpoints.ragflow_url, path=folder / FILE_NAME)
        return credential.secret


def make_app(context: click.Context) -> App:
    """The App of this invocation (created at the root context on first use)."""
    root = context.find_root()
    if not isinstance(root.obj, App):
        root.obj = App()
    context.obj = root.obj
    app: App = root.obj
    return app
