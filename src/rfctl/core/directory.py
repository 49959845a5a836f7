"""The folders in which rfctl keeps what is the user's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs


@dataclass(frozen=True)
class Directories:
    """config: settings and credentials; data: engine state and models; cache: may be deleted at any time."""

    config: Path
    data: Path
    cache: Path

    @property
    def engine(self) -> Path:
        """Everything the embedded engine owns (models, database, documents, key, state, log)."""
        return self.data / "engine"


def locate(environ: Mapping[str, str]) -> Directories:
    """RFCTL_HOME (one root for all three) or the platform's own places."""
    if home := environ.get("RFCTL_HOME"):
        root = Path(home).expanduser().absolute()
        return Directories(config=root / "config", data=root / "data", cache=root / "cache")
    return Directories(
        config=Path(platformdirs.user_config_dir("rfctl", appauthor=False)),
        data=Path(platformdirs.user_data_dir("rfctl", appauthor=False)),
        cache=Path(platformdirs.user_cache_dir("rfctl", appauthor=False)),
    )
