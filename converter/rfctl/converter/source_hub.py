"""A model or an adapter of a hub repository, downloaded whole into the hub's own cache, where other programs
find it as well. Only what a conversion reads is fetched, and never a pickled file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from rfctl.converter.hub_reader import DEFAULT_ENDPOINT, RepoName
from rfctl.core.error import AuthError, RfctlError, UnreachableError
from rfctl.core.progress import SILENT, Reporter, Stage

_SMALL = ("*.json", "*.txt", "*.jinja", "*.model", "README.md")
_WEIGHTS = ("*.safetensors",)
# The same weights once more, in other layouts: no conversion reads them, and they are as large.
_COPIES = ("consolidated*.safetensors", "*/*.safetensors")


def download(
    repo: RepoName,
    *,
    endpoint: str = "",
    token: str = "",
    config_only: bool = False,
    offline: bool = False,
    reporter: Reporter = SILENT,
) -> Path:
    """The directory with the files of `repo`; what is there already and unchanged is not fetched again.

    endpoint     URL of the hub or a mirror, "" for the hub
    config_only  without weights and tokenizer
    offline      take what the cache has, ask nobody
    huggingface_hub reads HF_HOME and HF_HUB_* when it is imported, which happens here first. Raises
    RfctlError `hub.*`; a download that broke off goes on with the next call.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    url = endpoint or DEFAULT_ENDPOINT
    try:
        with reporter.stage("hub.stage-download", unit="bytes", repo=str(repo)) as stage:
            path = snapshot_download(
                repo.id,
                revision=repo.revision,
                endpoint=url,
                token=token or False,
                allow_patterns=["config.json"] if config_only else [*_SMALL, *_WEIGHTS],
                ignore_patterns=[*_COPIES],
                local_files_only=offline,
                tqdm_class=_make_bar(stage),
            )
    except hub.GatedRepoError as error:
        raise AuthError("hub.gated", repo=repo.id, url=url) from error
    except hub.RevisionNotFoundError as error:
        raise RfctlError("hub.revision-missing", repo=repo.id, revision=repo.revision, url=url) from error
    except hub.RepositoryNotFoundError as error:
        if token:
            raise RfctlError("hub.repo-missing", repo=repo.id, url=url) from error
        raise AuthError("hub.repo-private", repo=repo.id, url=url) from error
    except hub.LocalEntryNotFoundError as error:
        if offline:
            raise RfctlError("hub.offline", repo=str(repo)) from error
        raise UnreachableError("hub.unreachable", url=url, what=_name(error.__cause__ or error)) from error
    except hub.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "?"
        raise UnreachableError("hub.failing", url=url, status=status) from error
    except (httpx.HTTPError, ConnectionError, TimeoutError) as error:
        raise UnreachableError("hub.unreachable", url=url, what=_name(error)) from error
    except OSError as error:
        raise RfctlError(
            "hub.cache-unwritable", repo=str(repo), what=error.strerror or _name(error)
        ) from error
    return Path(path)


def _name(error: BaseException) -> str:
    return type(error).__name__


def _make_bar(stage: Stage) -> type[Any]:
    """A class of bars that show nothing and tell `stage` the bytes of all files together.

    snapshot_download makes one bar each for files, bytes received and bytes written; the last counts here.
    """
    from tqdm.std import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.done = 0
            self.counts = options.get("unit") == "B" and "Downloading" not in str(options.get("desc", ""))
            super().__init__(*arguments, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            if self.counts:
                self.done += int(n or 0)
                stage.update(done=self.done, total=int(self.total) if self.total else None)

    return Bar
