"""The prompt formats that are kept as data in `modelfiles/`, one folder each.

`Modelfile` holds the Go template for servers that do not render the model's own (Ollama before 0.30), the
stop sequences and the sampling values; `family.toml` says by which markers of a chat template the family is
recognised and where the values come from. A family is never chosen by a file name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rfctl.core.data import data_folder
from rfctl.core.error import UsageError
from rfctl.ollama.modelfile import read_modelfile
from rfctl.ollama.parameter import Value, check_parameters, parse_parameter


@dataclass(frozen=True)
class Family:
    """One prompt format.

    template: Go template. stops: texts that end an answer. end: the text after an assistant turn.
    sampling: model parameters with their source named in `source`. markers: a chat template that contains all
    of `markers` and none of `foreign` belongs to this family.
    """

    name: str
    title: str
    aliases: tuple[str, ...]
    template: str
    stops: tuple[str, ...]
    end: str
    sampling: Mapping[str, Value]
    markers: tuple[str, ...]
    foreign: tuple[str, ...]
    source: str


@cache
def families() -> Mapping[str, Family]:
    """All families by name."""
    found = {}
    for folder in sorted(data_folder("modelfiles").iterdir()):
        if (folder / "family.toml").is_file():
            family = _read(folder)
            found[family.name] = family
    return found


def find_family(name: str) -> Family:
    """The family with this name or alias. Raises UsageError that lists the names."""
    wanted = name.strip().lower()
    for family in families().values():
        if wanted == family.name or wanted in family.aliases:
            return family
    raise UsageError("ollama.family-unknown", name=name, known=", ".join(families()))


def recognise_family(chat_template: str) -> Family | None:
    """The family whose markers a Jinja chat template contains; the longest markers win, a tie is nobody's."""
    fitting = [
        family
        for family in families().values()
        if all(marker in chat_template for marker in family.markers)
        and not any(marker in chat_template for marker in family.foreign)
    ]
    fitting.sort(key=_weight, reverse=True)
    if not fitting or (len(fitting) > 1 and _weight(fitting[0]) == _weight(fitting[1])):
        return None
    return fitting[0]


def _weight(family: Family) -> int:
    return sum(len(marker) for marker in family.markers)


def _read(folder: Path) -> Family:
    with (folder / "family.toml").open("rb") as file:
        facts = tomllib.load(file)
    modelfile = read_modelfile(folder / "Modelfile")
    values = {
        command.name: parse_parameter(command.name, command.args)
        for command in modelfile.commands
        if command.name not in ("model", "template", "stop")
    }
    return Family(
        name=folder.name,
        title=facts["title"],
        aliases=tuple(facts.get("aliases", ())),
        template=modelfile.last("template") or "",
        stops=modelfile.all("stop"),
        end=facts["end"],
        sampling=check_parameters(values),
        markers=tuple(facts["markers"]),
        foreign=tuple(facts.get("foreign", ())),
        source=facts["source"],
    )
