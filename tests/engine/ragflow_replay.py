"""Replays recorded exchanges (golden/ragflow/exchanges) and lists every difference."""

from __future__ import annotations

import hashlib
import json
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from ragflow_bench import KEY, Bench

_PLACEHOLDER = re.compile(
    r"<(?:dataset|document|chat|session|message|tenant|provider|instance|model|chunk|api_key)_\d+>"
    r"|<(?:session_token|encrypted_password|redacted|ms|seconds|date_time|hh:mm:ss|n|ip|pid|storage|beta|address)>"
    r"|<\d+ times x>"
)
_VOLATILE = {
    "<ms>": r"\d+(\.\d+)?",
    "<seconds>": r"[\d.e-]+",
    "<date_time>": r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?",
    "<hh:mm:ss>": r"\d\d:\d\d:\d\d",
    "<n>": r"[\d.]+",
    "<ip>": r"[\d.]+",
    "<pid>": r"\d+",
    "<storage>": r"\w+",
    "<beta>": r"[\w-]+",
    "<address>": r"\w+",
}
RECORDED_OLLAMA = "127.0.0.1:11434"


@dataclass(frozen=True)
class Difference:
    """path: dotted keys of the answer (list indexes as numbers); `status` is the HTTP status."""

    index: int
    path: str
    expected: Any
    actual: Any


@dataclass
class Replay:
    """One recording against one engine. bound: placeholder -> value."""

    bench: Bench
    golden: Path
    name: str
    bound: dict[str, str] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)

    def __post_init__(self) -> None:
        path = self.golden / "ragflow" / "exchanges" / f"{self.name}.json"
        self.exchanges = json.loads(path.read_text(encoding="utf-8"))["exchanges"]
        self.bound.setdefault("<api_key_1>", KEY)
        host = self.bench.double_url.removeprefix("http://")
        self.host = host

    def bind_names(self) -> None:
        """Bind ids that the recording shows beside a name to what the engine has under that name."""
        datasets = self.bench.call("GET", "/datasets", params={"page_size": 100})
        documents = {}
        for dataset in datasets:
            found = self.bench.call("GET", f"/datasets/{dataset['id']}/documents", params={"page_size": 100})
            documents |= {document["name"]: document["id"] for document in found["docs"]}
        known = {"dataset": {one["name"]: one["id"] for one in datasets}, "document": documents}
        for exchange in self.exchanges:
            for item in _objects(exchange["response"].get("json")):
                match = re.fullmatch(r"<(dataset|document)_\d+>", str(item.get("id")))
                if match and item["id"] not in self.bound and item.get("name") in known[match[1]]:
                    self.bound[item["id"]] = known[match[1]][item["name"]]

    def run(self, first: int = 0, last: int | None = None) -> list[Difference]:
        """Send the exchanges [first, last) and compare; returns all differences."""
        for index, exchange in list(enumerate(self.exchanges))[first:last]:
            self._step(index, exchange)
        return self.differences

    def _step(self, index: int, exchange: dict[str, Any]) -> None:
        expected = exchange["response"]
        runs = {doc["run"] for doc in _objects(expected.get("json")) if "run" in doc and "progress" in doc}
        polled = "identical_polls" in exchange or runs
        # The embedding model waits while the recording shows a document at work.
        if polled and runs <= {"DONE", "FAIL"}:
            self.bench.double.gate.set()
        deadline = time.monotonic() + 15
        while True:
            response = self._send(exchange["request"])
            found: list[Difference] = []
            self._compare(index, exchange, response, found)
            done = not polled or not found or "RUNNING" in runs
            if done or time.monotonic() > deadline or not any("run" in one.path for one in found):
                break
            time.sleep(0.03)
        if polled and "RUNNING" in runs:
            # Which of the passing states is seen depends on speed.
            passing = ("progress", "progress_msg", "chunk_count", "token_count", "process_duration", "run")
            found = [one for one in found if one.path.rsplit(".", 1)[-1] not in passing]
        self.differences += found

    def _send(self, request: dict[str, Any]) -> httpx.Response:
        headers = {}
        if request["auth"] in ("api key", "session token"):
            headers["Authorization"] = f"Bearer {KEY}"
        elif request["auth"] == "wrong":
            headers["Authorization"] = self._fill(request["authorization"])
        arguments: dict[str, Any] = {}
        if "query" in request:
            arguments["params"] = self._fill(request["query"])
        if "json" in request:
            arguments["json"] = self._fill(request["json"])
        elif "raw_body" in request:
            arguments["content"] = request["raw_body"].encode()
            headers["Content-Type"] = request["content_type"]
        elif "multipart" in request:
            files = [self._file(part) for part in request["multipart"]]
            boundary = "replay-boundary"
            arguments["content"] = _multipart(files, boundary)
            headers["Content-Type"] = f"multipart/form-data; boundary={boundary}"
        url = self.bench.url + self._fill(request["path"])
        return self.bench.plain.request(request["method"], url, headers=headers, **arguments)

    def _file(self, part: dict[str, Any]) -> tuple[str, str, bytes]:
        data = b"x" * part["bytes"]
        for path in (self.golden / "ragflow" / "fixtures").iterdir():
            if path.stat().st_size == part["bytes"]:
                content = path.read_bytes()
                data = content if hashlib.sha256(content).hexdigest() == part["sha256"] else data
        return part["field"], part["filename"], data

    def _fill(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._fill(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._fill(item) for item in value]
        if isinstance(value, str):
            return _PLACEHOLDER.sub(self._value, value).replace(RECORDED_OLLAMA, self.host)
        return value

    def _value(self, match: re.Match[str]) -> str:
        if times := re.fullmatch(r"<(\d+) times x>", match[0]):
            return "x" * int(times[1])
        return self.bound.get(match[0], match[0])

    def _compare(
        self, index: int, exchange: dict[str, Any], response: httpx.Response, found: list[Difference]
    ) -> None:
        expected = exchange["response"]
        if response.status_code != expected["status"]:
            found.append(Difference(index, "status", expected["status"], response.status_code))
        kind, wanted = response.headers.get("content-type", ""), expected["content_type"]
        if kind != wanted:
            found.append(Difference(index, "content_type", wanted, kind))
        if "content_disposition" in expected:
            shown = response.headers.get("content-disposition")
            if shown != expected["content_disposition"]:
                found.append(Difference(index, "content_disposition", expected["content_disposition"], shown))
        if "bytes" in expected and len(response.content) != expected["bytes"]:
            found.append(Difference(index, "bytes", expected["bytes"], len(response.content)))
        if "text" in expected and response.text != expected["text"]:
            found.append(Difference(index, "text", expected["text"], response.text))
        if "json" in expected:
            try:
                actual = response.json()
            except ValueError:
                found.append(Difference(index, "json", expected["json"], response.text[:200]))
                return
            trimmed = "trimmed" in exchange.get("note", "")
            self._match(index, "", expected["json"], actual, found, trimmed)

    def _match(
        self, index: int, path: str, expected: Any, actual: Any, found: list[Difference], trimmed: bool
    ) -> None:
        if isinstance(expected, dict) and isinstance(actual, dict):
            for key in expected.keys() | actual.keys():
                inner = f"{path}.{key}".lstrip(".")
                if key not in actual:
                    found.append(Difference(index, inner, expected[key], "(missing)"))
                elif key not in expected:
                    found.append(Difference(index, inner, "(missing)", actual[key]))
                else:
                    self._match(index, inner, expected[key], actual[key], found, trimmed)
        elif isinstance(expected, list) and isinstance(actual, list):
            if len(expected) != len(actual) and not (trimmed and len(expected) < len(actual)):
                found.append(Difference(index, f"{path}.length", len(expected), len(actual)))
            for number, (left, right) in enumerate(zip(expected, actual, strict=False)):
                self._match(index, f"{path}.{number}", left, right, found, trimmed)
        elif not self._equal(expected, actual):
            found.append(Difference(index, path, expected, actual))

    def _equal(self, expected: Any, actual: Any) -> bool:
        if not isinstance(expected, str):
            if isinstance(expected, bool) or isinstance(actual, bool):
                return expected is actual
            return bool(expected == actual)
        if expected in _VOLATILE:
            return re.fullmatch(_VOLATILE[expected], str(actual)) is not None
        if not isinstance(actual, str):
            return False
        pattern, at, fresh = "", 0, {}
        text = expected.replace(RECORDED_OLLAMA, self.host)
        text = text.replace("('127.0.0.1', 11434)", f"('127.0.0.1', {self.host.split(':')[1]})")
        for match in _PLACEHOLDER.finditer(text):
            pattern += re.escape(text[at : match.start()])
            name, at = match[0], match.end()
            if name in _VOLATILE:
                pattern += _VOLATILE[name]
            elif name in self.bound:
                pattern += re.escape(self.bound[name])
            elif "times" in name:
                pattern += re.escape(self._fill(name))
            elif name in fresh:
                pattern += f"(?P={fresh[name]})"
            else:
                fresh[name] = f"g{len(fresh)}"
                pattern += f"(?P<{fresh[name]}>[\\w-]+)"
        match_ = re.fullmatch(pattern + re.escape(text[at:]), actual, re.DOTALL)
        if match_ is None:
            return False
        for name, group in fresh.items():
            self.bound[name] = match_[group]
        return True


def _objects(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value] + [item for part in value.values() for item in _objects(part)]
    if isinstance(value, list):
        return [item for part in value for item in _objects(part)]
    return []


def _multipart(files: list[tuple[str, str, bytes]], boundary: str) -> bytes:
    body = b""
    for name, filename, data in files:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'
        body += head.encode() + data + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()
