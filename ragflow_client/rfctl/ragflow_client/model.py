"""Models that a RAGFlow account can use, and their full names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rfctl.core.error import UsageError
from rfctl.core.near import find_near
from rfctl.ragflow_client.failure import ServerError
from rfctl.ragflow_client.model_table import read_default, read_table
from rfctl.ragflow_client.record import mapping, records, text
from rfctl.ragflow_client.transport import Api

Kind = Literal["chat", "embedding"]


@dataclass(frozen=True)
class Model:
    """A registered model.

    name       as the provider has it (`qwen3:4b`); full_name is what datasets and assistants refer to
    instance   "" on a server without instances (before 0.26), where there is no id either
    is_default whether it is the account's choice for its kind
    """

    name: str
    kind: str
    provider: str
    instance: str
    id: str
    is_default: bool = False

    @property
    def full_name(self) -> str:
        """`model@instance@provider`: a name of two parts fails in assistants (RAGFlow 0.26 and later).

        Before 0.26 it is `model@provider`.
        """
        return "@".join(part for part in (self.name, self.instance, self.provider) if part)


def list_models(api: Api, kind: Kind) -> tuple[Model, ...]:
    """The models of one kind. The server lists all kinds for a filter that it does not know."""
    try:
        rows = records(api.call("GET", "/models", params={"type": kind}), "/models")
    except ServerError as error:
        if error.id != "ragflow.route-missing":
            raise
        return _list_table(api, kind)
    chosen = default_model(api, kind)
    found = []
    for entry in rows:
        kinds = entry.get("model_type")
        if kind not in (kinds if isinstance(kinds, list) else [kinds]):
            continue
        name, instance = text(entry, "name"), text(entry, "instance_name")
        provider = text(entry, "provider_name")
        is_default = chosen == (name, instance, provider)
        found.append(Model(name, kind, provider, instance, text(entry, "model_id"), is_default))
    return tuple(found)


def _list_table(api: Api, kind: Kind) -> tuple[Model, ...]:
    """The same on a server before 0.26."""
    chosen = read_default(api, kind)
    return tuple(
        Model(row.name, kind, row.provider, "", "", f"{row.name}@{row.provider}" == chosen)
        for row in read_table(api)
        if row.kind == kind and row.is_active
    )


def default_model(api: Api, kind: Kind) -> tuple[str, str, str] | None:
    """(name, instance, provider) of the account's default, or None."""
    data = mapping(api.call("GET", "/models/default"))
    for entry in records(data.get("models") or [], "/models/default"):
        if text(entry, "model_type") == kind and text(entry, "model_name"):
            return text(entry, "model_name"), text(entry, "model_instance"), text(entry, "model_provider")
    return None


def choose_model(api: Api, kind: Kind, wanted: str = "") -> Model:
    """The model that `wanted` names, or the default, or the only one there is.

    wanted: `name`, `name:tag`, a full name or a model id; a missing tag is `latest`. Raises UsageError
    `ragflow.no-model`, `ragflow.model-unknown`, `ragflow.model-ambiguous`.
    """
    models = list_models(api, kind)
    known = ", ".join(model.name for model in models) or "-"
    if not models:
        raise UsageError(
            "ragflow.no-model" if not wanted else "ragflow.model-unknown", kind=kind, name=wanted, known=known
        )
    if not wanted:
        preferred = [model for model in models if model.is_default] or list(models)
        if len(preferred) > 1:
            raise UsageError("ragflow.model-not-chosen", kind=kind, known=known)
        return preferred[0]
    forms = {wanted.lower(), f"{wanted}:latest".lower()}
    matches = [
        model
        for model in models
        if forms
        & {
            model.name.lower(),
            model.full_name.lower(),
            f"{model.name}@{model.provider}".lower(),
            model.id or model.name.lower(),
        }
    ]
    if not matches:
        near = find_near(wanted, [model.name for model in models])
        raise UsageError("ragflow.model-unknown", kind=kind, name=wanted, known=known, near=near)
    defaults = [model for model in matches if model.is_default]
    if len(matches) > 1 and not defaults:
        names = ", ".join(model.full_name for model in matches)
        raise UsageError("ragflow.model-ambiguous", name=wanted, known=names)
    return (defaults or matches)[0]
