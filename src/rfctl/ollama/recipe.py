"""Everything a push decides before it sends: parameters, stops, template policy, and the bytes to upload."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rfctl.core.error import RfctlError, UsageError
from rfctl.core.machine import Machine
from rfctl.core.progress import SILENT, Reporter
from rfctl.ollama.answer import Version
from rfctl.ollama.blob import Content
from rfctl.ollama.candidate import Candidate
from rfctl.ollama.context import Context, choose_context
from rfctl.ollama.family import Family, find_family, recognise_family
from rfctl.ollama.lint import ignores_template
from rfctl.ollama.modelfile import Modelfile
from rfctl.ollama.parameter import Value, check_parameters, kinds, parse_parameter
from rfctl.ollama.stop import Stops, derive_stops
from rfctl.ollama.template import Message

# Ollama 0.30+ replaces a chat template that is fewer than 100 edits away from one of its references, the
# longest of which has 4614 characters (template/template.go, index.json, v0.33.0-rc2). A comment of
# characters that no reference contains is that many edits; the rendered text does not change.
MATCH_DISTANCE = 100
LONGEST_REFERENCE = 4614
_PAD = "~"
_PAD_MINIMUM = 128


@dataclass(frozen=True)
class Wishes:
    """What the person asked for; None or empty: not asked. template: name of a family in `modelfiles/`."""

    num_ctx: int | None = None
    system: str | None = None
    template: str | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)
    license: Sequence[str] = ()
    messages: Sequence[Message] = ()
    modelfile: Modelfile | None = None


@dataclass(frozen=True)
class Recipe:
    """body: fields of the create request without `model` and `files`. native: the server renders the file's
    own chat template. padded: a comment is appended to that template in the uploaded header."""

    body: Mapping[str, object]
    context: Context
    stops: Stops
    family: str
    native: bool
    padded: bool

    @property
    def num_ctx(self) -> int:
        return self.context.num_ctx

    @property
    def settings(self) -> str:
        """Hex sha256 over all decisions: equal when the same push would create the same model."""
        text = json.dumps([self.body, self.padded], ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def decide(
    candidate: Candidate,
    wishes: Wishes,
    version: Version,
    reporter: Reporter = SILENT,
    *,
    machine: Machine | None = None,
) -> Recipe:
    """Merge the family's values, the Modelfile and the wishes (later wins).

    machine: where the server runs, None when that is not known. Raises UsageError or ParameterError for
    values that Ollama would refuse or misread.
    """
    body, given = _read_modelfile(wishes.modelfile)
    given |= check_parameters(wishes.parameters)
    chat_template = candidate.template.text
    family = (
        find_family(wishes.template)
        if wishes.template is not None
        else recognise_family(chat_template)
        if not candidate.is_embedding
        else None
    )
    stops = Stops((), "", None) if candidate.is_embedding else derive_stops(candidate, family)
    parameters: dict[str, object] = dict(family.sampling) if family is not None else {}
    if stops.texts:
        parameters["stop"] = list(stops.texts)
    parameters |= {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    written = parameters.get("num_ctx")
    context = choose_context(
        candidate,
        asked=wishes.num_ctx,
        written=written if isinstance(written, int) else None,
        machine=machine,
        reporter=reporter,
    )
    parameters["num_ctx"] = context.num_ctx
    body["parameters"] = dict(sorted(parameters.items()))
    if wishes.system is not None:
        body["system"] = wishes.system
    if wishes.license:
        body["license"] = list(wishes.license)
    if wishes.messages:
        body["messages"] = [dict(message) for message in wishes.messages]
    template = _choose_template(candidate, family, body, wishes, version, reporter)
    if template:
        body["template"] = template
    native = not template and bool(chat_template)
    return Recipe(
        body={key: value for key, value in body.items() if value not in ("", [], {})},
        context=context,
        stops=stops,
        family=family.name if family is not None else "",
        native=native,
        padded=native and version.rewrites_files and _may_match(chat_template),
    )


def content_of(candidate: Candidate, recipe: Recipe) -> Content:
    """The bytes to upload: the file, or a header with the padded template in front of the file's own data."""
    if not recipe.padded:
        return Content.of_file(candidate.path)
    with candidate.path.open("rb") as file:
        header = file.read(candidate.data_offset)
    head = pad_template(header, candidate.template.text, candidate.alignment)
    return Content.of_file(candidate.path, head, candidate.data_offset)


def pad_template(header: bytes, chat_template: str, alignment: int) -> bytes:
    """`header` with a Jinja comment behind the chat template.

    The comment is as long as it takes to grow the header by a multiple of the alignment, so that every offset
    and the zero bytes before the data stay right. A newline at the end of the template, which Jinja drops,
    is dropped here, where the comment would otherwise keep it.
    """
    old = _encode_template(chat_template)
    at = header.find(old)
    if at < 0 or header.find(old, at + 1) >= 0:
        raise RfctlError("ollama.template-not-found")
    trimmed = chat_template.removesuffix("\n")
    bare = _encode_template(trimmed + "{##}")
    grown = len(bare) + _PAD_MINIMUM - len(old)
    pad = _PAD_MINIMUM + -grown % alignment
    return header[:at] + _encode_template(trimmed + "{#" + _PAD * pad + "#}") + header[at + len(old) :]


def _encode_template(text: str) -> bytes:
    """The key/value as it stands in a GGUF: key, type 8 (string), value."""
    key, value = b"tokenizer.chat_template", text.encode()
    return b"".join(
        (
            len(key).to_bytes(8, "little"),
            key,
            (8).to_bytes(4, "little"),
            len(value).to_bytes(8, "little"),
            value,
        )
    )


def _may_match(chat_template: str) -> bool:
    return (
        len(chat_template) < LONGEST_REFERENCE + MATCH_DISTANCE and _PAD * _PAD_MINIMUM not in chat_template
    )


def _read_modelfile(modelfile: Modelfile | None) -> tuple[dict[str, object], dict[str, Value]]:
    """Body fields and typed parameters; FROM is the caller's business."""
    body: dict[str, object] = {}
    parameters: dict[str, object] = {}
    if modelfile is None:
        return body, {}
    if modelfile.all("adapter") or modelfile.all("draft"):
        raise UsageError("ollama.modelfile-adapter")
    for command in modelfile.commands:
        if command.name in ("system", "template", "renderer", "parser", "requires"):
            body[command.name] = command.args
        elif command.name == "license":
            body["license"] = [*_list(body.get("license")), command.args]
        elif command.name == "message":
            role, _, content = command.args.partition(": ")
            body["messages"] = [*_list(body.get("messages")), {"role": role, "content": content}]
        elif command.name != "model" and kinds().get(command.name) != "deprecated":
            value = parse_parameter(command.name, command.args)
            parameters[command.name] = (
                [*_list(parameters.get("stop")), value] if command.name == "stop" else value
            )
    return body, check_parameters(parameters)


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def _choose_template(
    candidate: Candidate,
    family: Family | None,
    body: Mapping[str, object],
    wishes: Wishes,
    version: Version,
    reporter: Reporter,
) -> str:
    """The Go template to send, or "" where the server renders the file's own chat template."""
    own = candidate.template.text
    written = str(body.get("template", ""))
    if wishes.template is not None and family is not None:
        written = family.template
    if written:
        if version.renders_jinja and ignores_template(own, written):
            reporter.warn("ollama.template-ignored", path=candidate.path)
        return written
    if candidate.is_embedding or (version.renders_jinja and own):
        return ""
    if family is not None:
        return family.template
    reporter.warn("ollama.template-none" if not own else "ollama.template-unrecognised", path=candidate.path)
    return ""
