"""Sends the recorded requests of an Ollama server to the engine and says where the answers differ.

Compared: status, content type, the keys and their order, and every text that is not generated. Not compared:
times, sizes, digests, generated words, and what `DELIBERATE` lists with its reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

# Where the engine differs on purpose. Keys of answers -> why.
DELIBERATE = {
    "modelfile": "a template is not guessed, so its lines are missing; PARAMETER lines have no fixed order",
    "parameters": "no stops of a guessed template; no fixed order",
    "template": "the chat template of the GGUF instead of a guessed Go template",
    "model_info": "other random models; compared by type",
    "tensors": "order of the file instead of the order after a rewrite by llama-quantize",
    "context": "token ids",
    "capabilities": "compared where the model is the same",
}
# Texts that depend on the model or on chance.
VOLATILE = (
    "content",
    "response",
    "thinking",
    "digest",
    "parameter_size",
    "quantization_level",
    "version",
    "id",
    "token",
)
COUNTS = ("prompt_eval_count", "prompt_tokens", "context_length", "embedding_length")
_DIGEST = re.compile(r"sha256[:-][0-9a-f]{64}")
_PLACEHOLDER = re.compile(r"<(bytes|timestamp|duration_ns|unix_seconds|store|tmp|port)[^>]*>")


@dataclass
class Replay:
    """contents: digest of the recording -> bytes to send instead; digests: recorded -> ours; is_same_model:
    counts and ends of generations are compared too."""

    url: str
    contents: Mapping[str, bytes]
    digests: Mapping[str, str]
    store: Path
    is_same_model: bool = False
    differences: list[str] = field(default_factory=list)
    skip: Callable[[int, dict[str, Any]], bool] = lambda _number, _exchange: False

    def run(self, path: Path) -> list[str]:
        """The differences of one scenario, each with its request."""
        scenario = json.loads(path.read_text("utf-8"))
        self.differences = []
        with httpx.Client(base_url=self.url, timeout=120, trust_env=False) as http:
            for number, exchange in enumerate(scenario["exchanges"]):
                if self.skip(number, exchange):
                    continue
                request = exchange["request"]
                if request["path"] == "/api/create":
                    self.provide(http, request)
                label = f"{path.stem}[{number}] {request['method']} {request['path']}"
                found = self.send(http, request)
                self.compare(label, request, exchange["response"], found)
        return self.differences

    def provide(self, http: httpx.Client, request: Mapping[str, Any]) -> None:
        """Upload what the request names, as a client does: the recorded server kept uploads as orphans, the
        engine drops a blob with the last model that uses it."""
        for theirs in _DIGEST.findall(json.dumps(request)):
            if theirs in self.contents:
                url = f"/api/blobs/{self.digests[theirs]}"
                http.post(url, content=self.contents[theirs]).raise_for_status()

    def send(self, http: httpx.Client, request: Mapping[str, Any]) -> httpx.Response:
        headers = dict(request.get("headers", {}))
        content = b""
        if "json" in request:
            content = json.dumps(self.translate(request["json"]), ensure_ascii=False).encode()
            headers.setdefault("Content-Type", "application/json")
        elif body := request.get("body"):
            named = re.fullmatch(r"<(\d+) bytes (sha256:[0-9a-f]{64})>", body)
            content = self.contents.get(named[2], b"x" * int(named[1])) if named else body.encode()
        url = self.translate(request["path"])
        return http.request(request["method"], url, headers=headers, content=content)

    def translate(self, value: Any) -> Any:
        """A recorded request with our digests in it."""
        text = json.dumps(value, ensure_ascii=False)
        text = _DIGEST.sub(lambda match: self.digests.get(match[0], match[0]), text)
        return json.loads(text)

    # -- comparing ------------------------------------------------------------------------------

    def compare(
        self, label: str, request: Mapping[str, Any], wanted: Mapping[str, Any], found: httpx.Response
    ) -> None:
        def differ(what: str, ours: object, theirs: object) -> None:
            self.differences.append(
                f"{label} {str(request.get('json', ''))[:160]}\n  {what}: {ours!r}\n  recorded: {theirs!r}"
            )

        if found.status_code != wanted["status"]:
            differ("status", (found.status_code, found.text[:300]), wanted["status"])
            return
        if found.headers.get("content-type") != wanted["content_type"]:
            differ("content type", found.headers.get("content-type"), wanted["content_type"])
        if "text" in wanted:
            ours, theirs = self.raw(found.text), self.raw(wanted["text"])
            if ours != theirs:
                differ("text", ours, theirs)
        elif "ndjson" in wanted:
            lines = [json.loads(line) for line in found.text.splitlines()]
            self.compare_lines(differ, lines, wanted["ndjson"])
        elif "json" in wanted:
            self.compare_values(differ, "", found.json(), wanted["json"])

    def raw(self, text: str) -> str:
        """A raw body without what changes from call to call."""
        text = re.sub(r'"(created_at|modified_at)":"[^"]*"', r'"\1":"<timestamp>"', text)
        text = re.sub(r'"(\w+_duration)":(\d+|"<duration_ns>")', r'"\1":0', text)
        text = re.sub(r'"version":"[^"]*"', '"version":"V"', text)
        if not self.is_same_model:
            text = re.sub(r'"(prompt_eval_count|eval_count)":\d+', r'"\1":0', text)
        lines: list[str] = []
        for line in text.split("\n"):
            if '{"status":"using autodetected' in line or "layer sha256" in line:
                continue
            line = re.sub(r'"content":"(?:[^"\\]|\\.)*"', '"content":"C"', line)
            if line.startswith("{") and '"message"' in line and '"done":false' in line and line in lines:
                continue  # the number of pieces depends on the words
            lines.append(line)
        return "\n".join(lines)

    def compare_lines(self, differ: Any, ours: list[Any], theirs: list[Any]) -> None:
        if "status" in theirs[0]:
            mine, recorded = statuses(ours), statuses(theirs)
            if mine != recorded:
                differ("progress", mine, recorded)
            if "error" in theirs[-1]:
                self.compare_values(differ, "", ours[-1], theirs[-1])
            return
        for pick in (0, -1):
            self.compare_values(differ, f"line {pick}", ours[pick], theirs[pick])
        if not all(list(line) == list(theirs[0]) for line in ours[:-1]):
            differ("lines", ours, theirs)

    def compare_values(self, differ: Any, path: str, ours: Any, theirs: Any) -> None:
        key = path.rpartition(".")[2].partition("[")[0]
        if key in DELIBERATE:
            return
        if isinstance(theirs, dict) and isinstance(ours, dict):
            mine = [name for name in ours if name not in DELIBERATE]
            recorded = [name for name in theirs if name not in DELIBERATE]
            if mine != recorded:
                differ(f"keys of {path or 'answer'}", mine, recorded)
            for name in mine:
                if name in theirs:
                    self.compare_values(differ, f"{path}.{name}", ours[name], theirs[name])
        elif isinstance(theirs, list) and isinstance(ours, list):
            if bool(ours) != bool(theirs):
                differ(path, ours, theirs)
            if key == "models":  # equal times have no order
                ours, theirs = (sorted(rows, key=lambda row: row["name"]) for rows in (ours, theirs))
            for number, (mine_item, recorded_item) in enumerate(zip(ours, theirs, strict=False)):
                self.compare_values(differ, f"{path}[{number}]", mine_item, recorded_item)
        elif isinstance(theirs, str) and key == "error":
            if not self.same_error(str(ours), theirs):
                differ(path, ours, theirs)
        elif isinstance(theirs, str) and not isinstance(ours, str):
            if not _PLACEHOLDER.fullmatch(theirs) and not theirs.startswith("<trimmed"):
                differ(path, ours, theirs)
        elif isinstance(theirs, str):
            if key in ("done_reason", "finish_reason") and not self.is_same_model:
                theirs = theirs if theirs not in ("stop", "length") else ours
            if key not in VOLATILE and not _PLACEHOLDER.search(theirs) and ours != theirs:
                differ(path, ours, theirs)
        elif isinstance(theirs, bool) or theirs is None:
            if ours != theirs:
                differ(path, ours, theirs)
        elif (
            isinstance(ours, bool)
            or not isinstance(ours, int | float)
            or (self.is_same_model and key in COUNTS and ours != theirs)
        ):
            differ(path, ours, theirs)

    def same_error(self, ours: str, theirs: str) -> bool:
        """The same words. Doubled lines count once, and more may follow where the recorded text is opaque."""
        theirs = theirs.replace("<store>", str(self.store))
        theirs = _DIGEST.sub(lambda match: self.digests.get(match[0], match[0]), theirs)
        cause = "llama-server process has terminated: "
        if theirs.startswith(cause):
            last = theirs.removeprefix(cause).split("\n")[0].split(": ", 1)[-1]
            # The words of the C++ library differ between builds.
            last = last.replace("unordered_map::at", "")
            return ours.startswith(cause) and (last in ours or "std::exception" in theirs)
        if "llama-quantize failed" in theirs:
            return ours.startswith(theirs)
        changing = re.compile(r'\d+|tensor "[^"]*"')
        return changing.sub("N", ours) == changing.sub("N", theirs)


def statuses(lines: list[Any]) -> list[str]:
    """Progress without layer digests and without the guessed template with its layer."""
    found: list[str] = []
    for line in lines:
        status = line.get("status", "error")
        if "layer sha256" in status or "autodetected" in status:
            continue
        found.append(status)
    return found
