"""Every check over recorded evidence: its verdict, its words, what it found; and the rules between checks."""

from __future__ import annotations

import base64
import json
import re
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfctl.core.catalog import LANGUAGES, entries, render
from rfctl.core.error import UsageError
from rfctl.stack.check import GROUPS, Finding, Verdict
from rfctl.stack.check_network import listeners
from rfctl.stack.child import decode
from rfctl.stack.evidence import Evidence
from rfctl.stack.examination import _find, checks, examine
from rfctl.stack.fix import _ACTIONS, intention, possible, repair
from rfctl.stack.project import Project, initialise

FOLDER = Path(__file__).parent / "evidence"
CASES: list[dict[str, Any]] = [
    case for path in sorted(FOLDER.glob("*.json")) for case in json.loads(path.read_text(encoding="utf-8"))
]


def load(values: dict[str, Any]) -> Evidence:
    """Captures recorded as bytes are decoded by the code that decodes them in use."""
    return Evidence(
        {
            name: {
                "state": value["state"],
                "code": value["code"],
                "out": decode(base64.b64decode(value["raw"])),
                "err": decode(base64.b64decode(value.get("raw_err", ""))),
            }
            if isinstance(value, dict) and "raw" in value
            else value
            for name, value in values.items()
        }
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['check']}: {case['case']}")
def test_a_check_over_recorded_evidence(case: dict[str, Any]) -> None:
    entry = checks()[case["check"]]
    alone = type(entry)(entry.id, entry.function, (), entry.fixable)
    finding = _find(alone, load(case["evidence"]), {}, {})
    assert (finding.verdict.value, finding.text) == (case["verdict"], case["text"]), finding
    for name, value in case["params"].items():
        assert finding.params[name] == value
    for language in LANGUAGES:
        text = render(finding.text, language, finding.params)
        assert text.message
        assert not re.search(r"\{\w+\}", text.message + text.why + text.next), text
        if finding.verdict in (Verdict.WARN, Verdict.FAIL):
            assert text.why
            assert text.next


def test_every_check_has_evidence_that_passes_and_evidence_that_does_not() -> None:
    good = {case["check"] for case in CASES if case["verdict"] == "ok"}
    bad = {case["check"] for case in CASES if case["verdict"] in ("warn", "fail")}
    assert (sorted(good), sorted(bad)) == (sorted(checks()), sorted(checks()))


def test_every_check_that_can_be_repaired_says_so_only_when_it_is_bad() -> None:
    values = {"platform": "linux", "host.max-map-count": 262144}
    assert not examine(Evidence(values), ["host.max-map-count"])[0].fixable
    values["host.max-map-count"] = 65530
    assert examine(Evidence(values), ["host.max-map-count"])[0].fixable


def test_nothing_collected_is_unknown_never_ok() -> None:
    verdicts = {finding.verdict for finding in examine(Evidence({}))}
    assert verdicts <= {Verdict.UNKNOWN, Verdict.SKIP}
    latest = examine(Evidence({}), ["docker.latest"])[0]
    for language in LANGUAGES:
        assert "stack.images" not in render(latest.text, language, latest.params).message


def test_a_store_that_cannot_be_made_is_a_failure(
    rfctl: Callable[..., Any], environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "spoilt").mkdir()
    (tmp_path / "spoilt" / "data").write_text("a file where the folder belongs", encoding="utf-8")
    for home, code in ((tmp_path / "spoilt", 5), (tmp_path / "new", 0)):
        result = rfctl("doctor", "--only", "engine.store", env={"RFCTL_HOME": str(home)})
        assert result.code == code, result.out + result.err


def test_without_an_engine_one_check_fails_and_the_ones_behind_it_are_skipped() -> None:
    down = {
        "state": "done",
        "code": 1,
        "out": '{"Server": null}',
        "err": "Cannot connect to the Docker daemon",
    }
    values = {"platform": "linux", "docker.version": down, "docker.path": "/usr/bin/docker"}
    values |= {"stack.images": [], "docker.compose": {"state": "done", "code": 0, "out": "5.6.1", "err": ""}}
    found = {finding.id: finding for finding in examine(Evidence(values), ["docker"])}
    assert [id for id, finding in found.items() if finding.verdict is Verdict.FAIL] == ["docker.engine"]
    assert found["docker.version"].text == "doctor.skip.after"
    assert found["docker.version"].params == {"check": "docker.engine"}


def test_only_takes_groups_and_ids_and_nothing_else() -> None:
    assert {finding.group for finding in examine(Evidence({}), ["wsl", "net"])} == {"wsl", "net"}
    assert [finding.id for finding in examine(Evidence({}), ["rag.health"])] == ["rag.health"]
    with pytest.raises(UsageError) as caught:
        examine(Evidence({}), ["dokcer"])
    assert caught.value.id == "doctor.group-unknown"


def test_the_texts_name_only_checks_that_exist() -> None:
    known = {f"doctor.{id}" for id in checks()}
    for id in entries("en"):
        parts = id.split(".")
        if parts[0] == "doctor" and len(parts) > 2 and parts[1] in GROUPS:
            assert ".".join(parts[:3]) in known, id


PLATFORM_FIXES = [id for id in entries("en") if id.startswith("doctor.on-")]


@pytest.mark.parametrize("id", PLATFORM_FIXES)
def test_a_fix_of_a_platform_belongs_to_a_text(id: str) -> None:
    _, platform, rest = id.split(".", 2)
    assert platform in ("on-windows", "on-wsl")
    assert entries("en")[f"doctor.{rest}"]["next"] != entries("en")[id]["message"]


@pytest.mark.parametrize(
    ("platform", "fix"),
    [
        ("linux", ""),
        ("wsl", "doctor.on-wsl.docker.engine.denied"),
        ("windows", "doctor.on-windows.docker.engine.denied"),
    ],
)
def test_the_fix_is_the_one_of_the_platform(platform: str, fix: str) -> None:
    denied = {"state": "done", "code": 1, "out": "", "err": "permission denied while trying to connect"}
    evidence = Evidence({"platform": platform, "docker.version": denied, "docker.path": "/usr/bin/docker"})
    finding = examine(evidence, ["docker.engine"])[0]
    assert (finding.verdict, finding.fix) == (Verdict.FAIL, fix)


@given(st.text(string.printable + "名称版本", max_size=200).filter(lambda text: text.isprintable()))
def test_console_text_survives_utf16(text: str) -> None:
    line = text + "\r\n"
    assert decode(line.encode("utf-16-le")) == text + "\n"
    assert decode(b"\xff\xfe" + line.encode("utf-16-le")) == text + "\n"
    assert decode(line.encode("utf-8")) == text + "\n"


def test_console_text_in_gbk() -> None:
    assert decode("适用于 Linux 的 Windows 子系统\r\n".encode("gbk")) == "适用于 Linux 的 Windows 子系统\n"


@given(st.binary(max_size=300))
def test_decoding_takes_whatever_comes(data: bytes) -> None:
    assert isinstance(decode(data), str)


@given(st.text(max_size=300))
def test_listeners_takes_whatever_comes(text: str) -> None:
    assert all(isinstance(port, int) for _, port, _ in listeners(text))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(case["check"] for case in CASES)), st.data())
def test_no_check_breaks_on_strange_evidence(id: str, data: st.DataObject) -> None:
    case = data.draw(st.sampled_from([case for case in CASES if case["check"] == id]))
    values = dict(case["evidence"])
    if values:
        values[data.draw(st.sampled_from(sorted(values)))] = data.draw(JUNK)
    assert examine(load(values), [id])[0].verdict in Verdict


# -- the command ------------------------------------------------------------------------------------


def script(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!{sys.executable}\nimport sys, time\n{body}", encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    script(
        folder,
        "docker",
        'if sys.argv[1] == \'version\':\n    print(\'{"Client": {"Version": "28.2.2"}, "Server": null}\')\n'
        "sys.stderr.write('Cannot connect to the Docker daemon at unix:///nowhere. '\n"
        "                 'Is the docker daemon running?\\n')\n"
        "sys.exit(1)\n",
    )
    return folder


def test_a_machine_without_an_engine(rfctl: Callable[..., Any], tools: Path) -> None:
    result = rfctl("doctor", "--only", "docker", env={"PATH": str(tools)})
    assert result.code == 5
    assert (
        "docker.engine             FAILED: Docker engine: Cannot connect to the Docker daemon at "
        "unix:///nowhere. Is the docker daemon running?\n"
        "  why: No engine answers, so RAGFlow cannot run here; the embedded engine needs none\n"
        "  next: sudo systemctl start docker, or start Docker Desktop\n"
    ) in result.out
    assert "error[doctor.failed]: 2 of 9 checks failed: docker.engine, docker.compose\n" in result.err
    chinese = rfctl("doctor", "--only", "docker", "--lang", "zh", env={"PATH": str(tools)})
    assert "没有引擎响应，RAGFlow 无法运行；内置引擎不需要 Docker" in chinese.out


def test_json_has_every_check_and_its_verdict(rfctl: Callable[..., Any], tools: Path) -> None:
    environment = {"PATH": str(tools), "RFCTL_RAGFLOW_URL": "http://127.0.0.1:1"}
    result = rfctl("doctor", "--json", env=environment)
    report = json.loads(result.out)
    assert report["schema_version"] == 1
    assert [row["id"] for row in report["findings"]] == list(checks())
    assert sum(report["counts"].values()) == len(checks())
    engine = next(row for row in report["findings"] if row["id"] == "engine.llama")
    assert engine["verdict"] == "ok"
    bad = [row for row in report["findings"] if row["verdict"] in ("warn", "fail")]
    assert {"docker.engine", "rag.reachable"} <= {row["id"] for row in bad}
    assert all(row["why"] and row["next"] for row in bad)
    assert json.loads(result.err)["error"]["id"] == "doctor.failed"


EMBEDDED = {
    "en": (
        "Docker was not looked at: the embedded engine needs none. For RAGFlow in Docker: "
        "rfctl doctor --only host,docker,wsl,rag\n",
        "the embedded engine needs no Docker",
    ),
    "zh": (
        "未检查 Docker：内置引擎不需要它。若要在 Docker 中运行 RAGFlow："
        "rfctl doctor --only host,docker,wsl,rag\n",
        "内置引擎不需要 Docker",
    ),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_who_uses_the_embedded_engine_alone_needs_no_docker(
    rfctl: Callable[..., Any], tools: Path, language: str
) -> None:
    note, reason = EMBEDDED[language]
    result = rfctl("doctor", "--lang", language, env={"PATH": str(tools)})
    assert result.code == 0, result.err
    assert note in result.err
    shown = {
        line.split()[0].partition(".")[0] for line in result.out.splitlines() if "." in line.split(" ")[0]
    }
    assert shown == {"host", "net", "engine"}
    report = json.loads(rfctl("doctor", "--json", "--lang", language, env={"PATH": str(tools)}).out)
    spared = {row["id"]: row for row in report["findings"] if row["message"] == reason}
    assert {row["verdict"] for row in spared.values()} == {"skip"}
    groups = {id for id in checks() if id.startswith(("docker.", "wsl."))}
    assert set(spared) == groups | {
        "net.exposed", "net.container-to-host", "rag.containers", "rag.password-drift", "rag.es-disk",
        "rag.executor", "rag.data-project",
    }  # fmt: skip


def test_this_machine_without_an_engine_is_told_exactly_that(rfctl: Callable[..., Any], tools: Path) -> None:
    count = int(Path("/proc/sys/vm/max_map_count").read_text("ascii"))
    is_low = count < 262144
    result = rfctl(
        "doctor", "--only", "host.max-map-count,docker.cli,docker.engine", env={"PATH": str(tools)}
    )
    lines = [f"host.max-map-count  {'FAILED' if is_low else 'ok'}: vm.max_map_count is {count}; "
             "Elasticsearch needs at least 262144"]  # fmt: skip
    if is_low:
        lines += [
            "  why: Elasticsearch ends with exit code 78 below it",
            "  next: echo vm.max_map_count=262144 | sudo tee /etc/sysctl.d/99-rfctl.conf "
            "&& sudo sysctl --system",
        ]
    lines += [
        f"docker.cli          ok: docker is {tools / 'docker'}",
        "docker.engine       FAILED: Docker engine: Cannot connect to the Docker daemon at unix:///nowhere. "
        "Is the docker daemon running?",
        "  why: No engine answers, so RAGFlow cannot run here; the embedded engine needs none",
        "  next: sudo systemctl start docker, or start Docker Desktop",
        f"{1 if is_low else 2} ok, 0 warnings, {2 if is_low else 1} failed, 0 skipped, 0 unknown",
    ]
    assert result.code == 5
    assert result.out == "\n".join(lines) + "\n"
    # With a stack of one's own, Docker is looked at without being asked for.
    assert rfctl("stack", "init").code == 0
    whole = rfctl("doctor", env={"PATH": str(tools)})
    assert whole.code == 5
    assert (
        "\ndocker.engine             FAILED: Docker engine: Cannot connect to the Docker daemon" in whole.out
    )


# The table of the design: each of its checks must be here. `engine.*` and `rag.reachable` came after it.
DESIGNED = {
    "host": "cpu-arch avx2 ram disk max-map-count clock",
    "docker": "cli engine version compose desktop-vs-engine gpu snap registry latest",
    "wsl": "version memory keepalive systemd mirrored placement wslc",
    "net": "ports excluded-ports exposed proxy container-to-host",
    "ollama": "up bind public gpu context disk",
    "model": "chat embed template",
    "rag": "containers health scheme secrets password-drift default-admin api-key version es-disk executor "
    "data-project",
    "kb": "embed-match stuck empty",
}


def test_every_designed_check_exists() -> None:
    designed = {f"{group}.{name}" for group, names in DESIGNED.items() for name in names.split()}
    assert len(designed) == 50
    extra = {id for id in checks() if id.startswith("engine.")} | {"rag.reachable", "rag.combination"}
    assert set(checks()) - extra >= designed


def test_repairs_of_the_stack_change_only_their_lines(tmp_path: Path) -> None:
    project, engine = Project(tmp_path), tmp_path / "engine"
    found = {
        "stack.env": {"DOC_ENGINE": "infinity"}, "host.cpu-flags": [], "host.memory": 8 * 10**9,
        "stack.ports": {"8080": "taken", "9380": "free"},
        "docker.ps": {"state": "done", "code": 0, "err": "",
                      "out": '{"Names": "a", "Ports": "0.0.0.0:8080->80/tcp"}'},
    }  # fmt: skip
    findings = [
        _find(type(entry)(entry.id, entry.function, (), entry.fixable), Evidence(found), {}, {})
        for entry in (checks()[id] for id in ("host.avx2", "host.ram", "net.ports", "net.exposed"))
    ]
    # Without a stack there is nothing to change.
    assert possible(findings, project) == []
    initialise(project, size="large")
    before = project.read()
    assert [item.id for item in possible(findings, project)] == [
        "host.avx2", "host.ram", "net.ports", "net.exposed",
    ]  # fmt: skip
    done = [repair(item, project=project, engine=engine) for item in findings]
    assert all(item.done for item in done), done
    after = project.read()
    assert project.env_file.stat().st_mode & 0o777 == 0o600
    changed = {name: after[name] for name in after if before.get(name) != after[name]}
    assert int(changed.pop("RFCTL_WEB_PORT")) > 8080
    assert changed == {
        "RFCTL_SIZE": "small", "ES_MEM_LIMIT": "2g", "RAGFLOW_MEM_LIMIT": "5g", "RFCTL_WORKERS": "1",
    }  # fmt: skip
    # Infinity has documents already: its index is not left behind by a repair.
    project.images_file.write_text("{}", encoding="utf-8")
    assert not repair(findings[0], project=project, engine=engine).done


def test_a_port_that_windows_keeps_is_moved_out_of_the_whole_range(tmp_path: Path) -> None:
    """Inside WSL such a port can be bound, so trying does not tell."""
    project = Project(tmp_path)
    initialise(project, size="small")
    netsh = {
        "state": "done",
        "code": 0,
        "out": "\n      9301        9400\n      9401        9450\n",
        "err": "",
    }
    values = {"platform": "wsl", "stack.ports": {"8080": "free", "9380": "free"}}
    evidence = Evidence(values | {"windows.excluded-ports": netsh})
    finding = examine(evidence, ["net.excluded-ports"])[0]
    assert repair(finding, project=project, engine=tmp_path).done
    assert int(project.read()["RFCTL_API_PORT"]) > 9450
    assert project.read()["RFCTL_WEB_PORT"] == "8080"


def test_a_hanging_docker_does_not_hold_the_doctor_up(rfctl: Callable[..., Any], tools: Path) -> None:
    script(tools, "docker", "time.sleep(60)\n")
    result = rfctl("doctor", "--only", "docker.engine", env={"PATH": str(tools)}, timeout=12)
    assert result.code == 5
    assert "docker.engine  FAILED: The Docker engine does not answer in time\n" in result.out


def test_an_unknown_group_is_a_usage_error(rfctl: Callable[..., Any]) -> None:
    result = rfctl("doctor", "--only", "dokcer")
    assert result.code == 2
    assert result.err.startswith("error[doctor.group-unknown]: There is no group or check called dokcer\n")


def test_every_repair_is_announced_in_words() -> None:
    for text in _ACTIONS:
        finding = Finding("a.b", "a", Verdict.FAIL, text, {"found": "8080"}, True)
        for language in LANGUAGES:
            assert render(intention(finding), language, finding.params).message != intention(finding)


def test_fix_asks_first_and_then_closes_the_store(
    rfctl: Callable[..., Any], environment: dict[str, str]
) -> None:
    folder = Path(environment["RFCTL_HOME"]) / "data" / "engine"
    folder.mkdir(parents=True, mode=0o755)
    folder.chmod(0o755)
    assert rfctl("doctor", "--only", "engine.store").code == 0
    asked = rfctl("doctor", "--only", "engine.store", "--fix")
    assert asked.code == 7
    # What it would do is said before the question.
    assert "engine.store: let nobody else read the engine's folder\n" in asked.err
    assert folder.stat().st_mode & 0o777 == 0o755
    result = rfctl("doctor", "--only", "engine.store", "--fix", "--yes")
    assert result.code == 0
    assert f"engine.store: fixed (chmod 700 {folder})\n" in result.out
    assert folder.stat().st_mode & 0o777 == 0o700


def test_checks_are_pure(tmp_path: Path) -> None:
    """No check module may start programs, open sockets or read files."""
    program = (
        "import sys; from rfctl.stack.examination import checks; checks(); "
        "print(sorted({'httpx', 'socket', 'rfctl.stack.collector'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "[]\n"
