"""Recorded exchanges of chunks, retrieval, assistants, sessions and answers against the engine.

Every difference is in the table, with its reason, or a fault.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from ragflow_bench import Bench, Double, Server, application, bench
from ragflow_replay import Difference, Replay

ANSWER = "The launch code name is Bluebird."
FULL = {
    "system": "Answer from the knowledge below.\n{knowledge}",
    "prologue": "Hello.",
    "parameters": [{"key": "knowledge", "optional": False}],
    "empty_response": "Nothing found.",
    "quote": True,
    "refine_multiturn": False,
}


@dataclass(frozen=True)
class Deviation:
    """A difference that is meant. scenario, path: regular expressions; indexes empty = any exchange."""

    scenario: str
    path: str
    reason: str
    indexes: tuple[int, ...] = ()

    def covers(self, scenario: str, one: Difference) -> bool:
        fits = re.fullmatch(self.scenario, scenario) and re.fullmatch(self.path, one.path)
        return bool(fits) and (not self.indexes or one.index in self.indexes)


CUT = "chunks are cut by `text.chunk`, without a line break at their begin"
SCORES = "no synonyms; the vectors are the counterpart's"
DEVIATIONS = [
    Deviation(
        "chunks.*|retrieval", r".*\.(thumbnail|raptor|nickname|document_count|token_num)", "see documents"
    ),
    Deviation(
        "chunks.*|retrieval", r"data\.(doc\.|docs\.0\.|0\.)?(progress_msg|chunk_count|token_count)", CUT
    ),
    Deviation("chunks.*", r"data\.(total|chunks\.length|chunks\.\d+\.(content|id)|content_with_weight)", CUT),
    Deviation("chunks-positions", r"data\.chunks\.0\.positions\.length", "PDF chunks have positions", (0,)),
    Deviation("chunks", r"data\.chunks\.\d+\.positions\.length", "PDF chunks have positions"),
    Deviation("chunks-positions", r"data\.chunks\.0\..*similarity", SCORES),
    Deviation("chunks", "code|message", "wrong positions are refused", (40,)),
    Deviation("chunks", "code|message|data", "and so the document can still be listed", (42, 44)),
    Deviation("chunks-positions", "code|message", "wrong positions are refused", (4,)),
    Deviation("chunks-positions", "code|message|data", "and so the document can still be listed", (5,)),
    Deviation("retrieval", r"data\.chunks\.\d+\.(content|content_ltks|content_with_weight|highlight)", CUT),
    Deviation("retrieval", r"data\.(total|chunks\.length|doc_aggs\.(length|\d+\.count))", CUT),
    Deviation("retrieval", r"data\.chunks\.\d+\.(id|positions.*)", CUT),
    Deviation("retrieval", r"data\.chunks\.\d+\.\w*similarity", SCORES),
    Deviation("retrieval", r"data\.(chunks|doc_aggs)\.\d+\.(document_(id|keyword)|doc_(id|name))", SCORES),
    Deviation("chats", r".*\.nickname", "the account is called rfctl"),
    Deviation("sessions", "message", "the text does not show the database's own fields", (25,)),
    Deviation("completions.*|openai.*|llm-down", r".*content_type", "the header value is not doubled"),
    Deviation("completions.*|openai.*", r".*(chunks|reference)\.\d+\.(content|\w*similarity)", SCORES),
    Deviation("completions.*|openai.*", r".*(chunks|reference)\.(length|\d+\.(id|positions.*))", CUT),
    Deviation("completions.*", r".*\.prompt", CUT),
    Deviation("completions", r"data\.answer", "words of another chat model", (7, 11)),
    Deviation("completions-empty", r".*\.answer", "words of another chat model", (7, 8)),
    Deviation("completions-empty", r"usage\..*", "token counts are estimates", (12,)),
    Deviation("completions-empty", r"sse\..*usage\..*", "token counts are estimates", (13,)),
    Deviation("openai-compatible", r".*\.content", "words of another chat model"),
]


class StreamReplay(Replay):
    """Compares recorded streams too: the first frame, the last with content, the closing one."""

    def _compare(
        self, index: int, exchange: dict[str, Any], response: httpx.Response, found: list[Difference]
    ) -> None:
        super()._compare(index, exchange, response, found)
        if "sse" not in exchange["response"]:
            return
        if not response.headers["content-type"].startswith("text/event-stream"):
            found.append(Difference(index, "sse", "a stream", response.text[:200]))
            return
        assert response.text.endswith("\n\n")
        expected, actual = exchange["response"]["sse"], response.text.removesuffix("\n\n").split("\n\n")
        for number, (left, right) in enumerate(zip(_ends(expected), _ends(actual), strict=True)):
            self._match(index, f"sse.{number}", left, right, found, False)


def _ends(lines: list[str]) -> list[Any]:
    assert all(line.startswith("data:") for line in lines), lines
    frames = [line.removeprefix("data:") for line in lines]
    values = [json.loads(frame) if frame != "[DONE]" else frame for frame in frames]
    first = values[0]
    if isinstance(first.get("data"), dict) and len(values) > 1:
        # How the words are spread over frames is a matter of speed.
        deltas = [value["data"] for value in values if isinstance(value.get("data"), dict)]
        texts = [one["answer"] for one in deltas if one.get("final") is False]
        first = first | {"data": deltas[0] | {"answer": "".join(texts) or deltas[0]["answer"]}}
    elif "choices" in first:
        parts = [value["choices"][0]["delta"] for value in values[:-2]]
        text = "".join(part["content"] for part in parts)
        first["choices"][0]["delta"]["content"] = text
    return [first, values[-2], values[-1]]


USED: set[Deviation] = set()


@dataclass(frozen=True)
class Scene:
    """An engine with the recordings' datasets: `docs`, `e5` with another embedding model, `empty`."""

    engine: Bench
    golden: Path
    docs: str
    e5: str
    empty: str
    document: dict[str, str]
    foreign: str

    def replay(self, name: str, bound: dict[str, str], **kwargs: Any) -> None:
        replay = StreamReplay(self.engine, self.golden, name)
        replay.bound.update({"<dataset_1>": self.docs} | bound)
        replay.run(**kwargs)
        faults = []
        for one in replay.differences:
            covering = [deviation for deviation in DEVIATIONS if deviation.covers(name, one)]
            USED.update(covering)
            if not covering:
                faults.append(f"[{one.index}] {one.path}: {one.expected!r:.200} -> {one.actual!r:.200}")
        assert not faults, name + "\n" + "\n".join(faults)

    def assistants(self) -> dict[str, str]:
        """The two assistants of the recordings of answers, by placeholder as in `completions`."""
        for chat in self.engine.call("GET", "/chats", params={"page_size": 100})["chats"]:
            self.engine.call("DELETE", f"/chats/{chat['id']}")
        asked = {
            "name": "assistant",
            "dataset_ids": [self.docs],
            "llm_setting": {"temperature": 0.2, "top_p": 0.5},
        }
        first = self.engine.call("POST", "/chats", json=asked | {"prompt_config": {"empty_response": "none"}})
        asked = {
            "name": "full",
            "description": "fixture",
            "dataset_ids": [self.docs],
            "llm_id": "smollm2:135m@local@Ollama",
            "llm_setting": {"temperature": 0.1, "top_p": 0.3},
            "similarity_threshold": 0.2,
            "top_n": 3,
            "top_k": 100,
        }
        second = self.engine.call("POST", "/chats", json=asked)
        self.engine.call("PUT", f"/chats/{second['id']}", json={"prompt_config": FULL})
        return {"<chat_1>": first["id"], "<chat_2>": second["id"]}


@pytest.fixture(scope="module")
def scene(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    fixtures = golden / "ragflow" / "fixtures"
    names = ("handbook.pdf", "zh.pdf", "pasta.pdf", "note.txt", "blank.pdf")
    files = [(name, (fixtures / name).read_bytes()) for name in names]
    with bench(tmp_path_factory.mktemp("scene")) as engine:
        engine.double.answer = ANSWER
        docs = engine.create_dataset("docs")
        e5 = engine.create_dataset("e5")
        engine.call(
            "PUT", f"/datasets/{e5}", json={"embedding_model": "multilingual-e5-small:latest@local@Ollama"}
        )
        empty = engine.create_dataset("empty")
        documents = engine.upload(docs, *files, ("second.txt", b"Second."))
        [foreign] = engine.upload(e5, files[0])
        for dataset, added in ((docs, documents), (e5, [foreign])):
            ids = [one["id"] for one in added]
            engine.call("POST", f"/datasets/{dataset}/chunks", json={"document_ids": ids})
            assert {engine.wait(dataset, id)["run"] for id in ids} == {"DONE"}
        by_name = {one["name"]: one["id"] for one in documents}
        yield Scene(engine, golden, docs, e5, empty, by_name, foreign["id"])


def bind(scene: Scene, *names: str) -> dict[str, str]:
    return {f"<document_{number}>": scene.document[name] for number, name in enumerate(names, 1)}


def test_retrieval(scene: Scene) -> None:
    bound = bind(scene, "handbook.pdf", "pasta.pdf", "blank.pdf", "zh.pdf", "note.txt", "second.txt")
    bound |= {"<dataset_2>": scene.e5, "<dataset_3>": scene.empty, "<document_7>": scene.foreign}
    bound["<document_3>"] = scene.foreign
    scene.replay("retrieval", bound)


def test_positions_of_chunks(scene: Scene) -> None:
    scene.replay("chunks-positions", bind(scene, "pasta.pdf"))


def test_chunks(scene: Scene) -> None:
    scene.replay("chunks", bind(scene, "handbook.pdf", "zh.pdf", "blank.pdf"))


def test_assistants(scene: Scene) -> None:
    scene.replay("chats", {"<dataset_2>": scene.empty, "<dataset_3>": scene.e5})


def test_sessions(scene: Scene) -> None:
    scene.replay("sessions", scene.assistants())


def test_answers(scene: Scene) -> None:
    bound = scene.assistants() | bind(scene, "handbook.pdf")
    scene.replay("completions", bound)
    scene.replay("completions-stream", bound)


def test_nothing_found(scene: Scene) -> None:
    chats = scene.assistants()
    scene.replay("completions-empty", {"<chat_1>": chats["<chat_2>"], "<chat_2>": chats["<chat_1>"]})


def test_refused_questions(scene: Scene) -> None:
    chats = scene.assistants()
    other = scene.engine.call("POST", f"/chats/{chats['<chat_2>']}/sessions", json={"name": "x"})
    scene.replay("completions-errors", chats | {"<session_2>": other["id"]})


def test_openai_route(scene: Scene) -> None:
    chats = scene.assistants()
    bound = bind(scene, "handbook.pdf") | {"<chat_1>": chats["<chat_2>"]}
    scene.replay("openai-compatible", bound)


def test_the_model_server_is_down(golden: Path, tmp_path: Path) -> None:
    handbook = (golden / "ragflow" / "fixtures" / "handbook.pdf").read_bytes()
    double = Double()
    ollama = Server(double.app)
    with Server(application(tmp_path)) as server:
        with ollama:
            engine = Bench(server, double, ollama.url)
            engine.register()
            docs = engine.create_dataset("docs")
            [document] = engine.upload(docs, ("handbook.pdf", handbook))
            engine.call("POST", f"/datasets/{docs}/chunks", json={"document_ids": [document["id"]]})
            assert engine.wait(docs, document["id"])["run"] == "DONE"
            scene = Scene(engine, golden, docs, "", "", {"handbook.pdf": document["id"]}, "")
            chats = scene.assistants()
            bare = engine.call("POST", "/chats", json={"name": "bare"})
        bound = {"<chat_1>": chats["<chat_2>"], "<chat_2>": bare["id"]} | bind(scene, "handbook.pdf")
        scene.replay("llm-down", bound, last=7)
        asked = {"question": "Say hello.", "stream": False}
        answer = engine.call("POST", f"/chats/{bare['id']}/completions", json=asked)
        assert answer["answer"].startswith("**ERROR**: Cannot connect to host 127.0.0.1:")
        assert answer["reference"] == {"chunks": []}
        engine.client.close()


def test_every_deviation_is_needed(golden: Path) -> None:
    """The last test of this file: a line of the table that nothing uses is out of date."""
    if not USED:
        pytest.skip("runs after the other tests of this file")
    assert [one for one in DEVIATIONS if one not in USED] == []
