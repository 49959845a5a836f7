"""Changing the settings of a stack that was initialised before; its passwords stay, its data too."""

from __future__ import annotations

from collections.abc import Mapping

from rfctl.core.error import RefusedError, RfctlError, UsageError
from rfctl.stack.project import (
    ADDONS,
    Made,
    Project,
    addon_values,
    missing_values,
    pins,
    set_values,
)


def change(
    project: Project,
    *,
    size: str = "",
    addons: tuple[str, ...] = (),
    name: str = "",
    web_port: int = 0,
    api_port: int = 0,
) -> Made:
    """Write what was asked for ("", () and 0: not asked) to the settings file; the rest of it stays.

    Raises UsageError `stack.addon-unknown`, RefusedError `stack.name-fixed` (volumes carry the name) or
    `stack.addon-late` (a server of one's own in place of one that has data), RfctlError `stack.unwritable`.
    """
    have = project.read()
    if name and name != have.get("RFCTL_PROJECT", "rfctl"):
        raise RefusedError("stack.name-fixed", name=have.get("RFCTL_PROJECT", "rfctl"), path=project.env_file)
    wanted: dict[str, str] = {}
    if size:
        wanted |= {"RFCTL_SIZE": size, **pins()["sizes"][size]["env"]}
    wanted |= _add(have, addons)
    if web_port:
        wanted["RFCTL_WEB_PORT"] = str(web_port)
    if api_port:
        wanted["RFCTL_API_PORT"] = str(api_port)
    changed = {key: value for key, value in wanted.items() if have.get(key) != value}
    try:
        if changed:
            set_values(project, changed)
    except OSError as error:
        raise RfctlError("stack.unwritable", path=project.env_file, detail=str(error)) from error
    values = have | changed
    port = values.get("RFCTL_WEB_PORT", "8080")
    return Made(
        project.env_file,
        False,
        values.get("RFCTL_SIZE", ""),
        project.addons(),
        int(port) if port.isdigit() else 8080,
        values.get("RFCTL_ADMIN_EMAIL", ""),
        missing_values(values),
        tuple(changed),
    )


def _add(have: Mapping[str, str], addons: tuple[str, ...]) -> dict[str, str]:
    before = [name for name in have.get("RFCTL_ADDONS", "").split(",") if name]
    new = [name for name in addons if name not in before]
    for name in new:
        if name not in ADDONS:
            raise UsageError("stack.addon-unknown", name=name, known=", ".join(ADDONS))
        if name.startswith("external-"):
            raise RefusedError("stack.addon-late", name=name)
    if not new:
        return {}
    values = addon_values(new)
    if profiles := values.pop("COMPOSE_PROFILES", ""):
        parts = [*have.get("COMPOSE_PROFILES", "").split(","), *profiles.split(",")]
        values["COMPOSE_PROFILES"] = ",".join(dict.fromkeys(part for part in parts if part))
    return {
        "RFCTL_ADDONS": ",".join([*before, *new]),
        **{key: value for key, value in values.items() if value or key not in have},
    }
