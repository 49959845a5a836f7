"""Which directories a conversion reads: given ones, bases that an adapter names, repositories of the hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rfctl.cli.app import App
from rfctl.core.error import RfctlError, UsageError

if TYPE_CHECKING:
    from rfctl.converter.hub_reader import RepoName


def find_directories(
    app: App, directory: Path, adapter: Path | None, *, config_only: bool = False
) -> tuple[Path, Path | None]:
    """(model directory, adapter directory); what is no path here but the name of a repository is downloaded.

    config_only   the configuration of the base will do
    An adapter given alone brings its base with it (`base_model_name_or_path`). Raises RfctlError `hub.*`,
    `adapter.base-cached` and `adapter.base-elsewhere` where the base is a path that is not here; UsageError
    `adapter.not-found`.
    """
    from rfctl.converter.adapter import find_base, read_revision
    from rfctl.converter.check_adapter import read_base
    from rfctl.converter.hub_reader import parse_repo

    if adapter is not None:
        adapter = _find(app, adapter)
        if not adapter.exists():
            raise UsageError("adapter.not-found", path=adapter)
    directory = _find(app, directory, config_only=config_only)
    if adapter is None:
        base, adapter = find_base(directory)
        if adapter is None and not (base / "config.json").is_file():
            named, revision = read_base(base), read_revision(base)
            if repo := parse_repo(f"{named}@{revision}" if revision else named):
                return _download(app, repo, config_only=config_only), directory
            if named:
                raise _refuse_base(base, named)
        return base, adapter
    return directory, adapter


def _refuse_base(adapter: Path, named: str) -> RfctlError:
    """The error for an adapter whose base is a path of another machine."""
    from rfctl.converter.check_adapter import guess_repository

    if repo := guess_repository(named):
        return RfctlError("adapter.base-cached", path=adapter, base=named, repo=repo)
    return RfctlError("adapter.base-elsewhere", path=adapter, base=named)


def _find(app: App, path: Path, *, config_only: bool = False) -> Path:
    from rfctl.converter.hub_reader import parse_repo

    if path.exists() or (repo := parse_repo(path.as_posix())) is None:
        return path
    # An adapter's repository is fetched with its few weights whatever is wanted of the base.
    return _download(app, repo, config_only=config_only)


def _download(app: App, repo: RepoName, *, config_only: bool) -> Path:
    from rfctl.cli.hub import read_hub_access

    # Read by huggingface_hub when it is imported, which `download` does first.
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from rfctl.converter.source_hub import download

    try:
        access = read_hub_access(app, str(repo))
    except RfctlError as error:
        if error.id != "hub.offline":
            raise
        return download(repo, config_only=config_only, offline=True)
    return download(
        repo,
        endpoint=access.endpoint,
        token=access.token,
        config_only=config_only,
        reporter=app.reporter(),
    )
