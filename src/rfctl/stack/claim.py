"""Whether the data that the engine holds under the stack's name is this home's.

Databases keep the passwords of their first start. Settings that were made anew, or those of another home,
have other ones, so the volumes are taken only by the home that made or restored them.
"""

from __future__ import annotations

from rfctl.core.error import RefusedError, RfctlError
from rfctl.core.file import write_atomic
from rfctl.stack.compose import Compose
from rfctl.stack.project import Project
from rfctl.stack.volume import list_volumes


def claim_data(compose: Compose, *, is_known: bool = False) -> None:
    """To be called before the first start. is_known: somebody says that the settings fit the data.

    Raises RefusedError `stack.foreign-data`, RfctlError.
    """
    project = compose.project
    # Homes of before this note was made have the record of a start.
    if project.claim_file.exists() or project.images_file.exists():
        return
    volumes = list_volumes(compose.name, compose.environment)
    if volumes and not is_known:
        name, found = compose.name, ", ".join(volume.full for volume in volumes)
        raise RefusedError("stack.foreign-data", name=name, volumes=found, path=project.env_file)
    note_claim(project)


def note_claim(project: Project) -> None:
    """The volumes are this home's. Raises RfctlError `stack.unwritable`."""
    try:
        write_atomic(project.claim_file, b"", mode=0o600)
    except OSError as error:
        raise RfctlError("stack.unwritable", path=project.claim_file, detail=str(error)) from error
