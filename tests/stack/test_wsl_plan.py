"""What holds for every plan of `rfctl deploy wsl`, whatever Windows answers and whoever wishes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rfctl.stack.child import Capture
from rfctl.stack.evidence import Evidence
from rfctl.stack.wsl import Distribution, Machine, read_distributions, read_machine
from rfctl.stack.wsl_capture import Folders
from rfctl.stack.wsl_config import merge, wanted
from rfctl.stack.wsl_plan import Step, Wish, make_plan

UBUNTU = (Distribution("Ubuntu", 2, is_default=True),)
FOLDERS = Folders("C:\\deploy", "C:\\deploy", Path("/profile/.wslconfig"))


NAMES = [
    "wsl.status", "wsl.list", "wsl.version", "docker.info", "netsh.excluded", "netsh.portproxy",
    "distro.networking", "distro.conf", "distro.init", "distro.docker", "distro.ollama", "distro.address",
]  # fmt: skip
ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        name: st.builds(
            lambda code, out: {"state": "done", "code": code, "out": out, "err": ""},
            st.sampled_from([0, 1]),
            st.text(max_size=60)
            | st.sampled_from(["* Ubuntu Running 2\n", "9300 9999999999999 \n", "1.2\n"]),
        )
        for name in NAMES
    },
)
FACTS = st.dictionaries(
    st.sampled_from(["memory", "profile", "ollama", "ollama_host", "desktop", "elevated", "rule"]),
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.lists(st.integers(), max_size=2),
)


@given(answers=ANSWERS, facts=FACTS, config=st.text(max_size=60))
def test_whatever_windows_says_there_is_a_plan(
    answers: dict[str, Any], facts: dict[str, Any], config: str
) -> None:
    spoken = {"state": "done", "code": 0, "out": f"a profile script\n{json.dumps(facts)}\n", "err": ""}
    machine = read_machine(Evidence({**answers, "windows.facts": spoken, "wsl.config": config}))
    plan = make_plan(machine, Wish(lan_port=443), FOLDERS, "python")
    assert plan.distribution
    for step in plan.steps:
        assert all(isinstance(word, str) for word in step.command)


@given(st.text(max_size=80))
def test_a_listing_gives_names_that_are_words(text: str) -> None:
    for one in read_distributions(Capture("done", 0, text)):
        assert one.name
        assert not any(char.isspace() for char in one.name)
        assert one.generation in (1, 2)


CHOICES = st.sampled_from(["desktop", "distro"])


@given(
    engines=st.frozensets(CHOICES),
    ollama=st.frozensets(st.sampled_from(["windows", "distro"])),
    mode=st.sampled_from(["nat", "mirrored", ""]),
    wish_engine=st.sampled_from(["", "desktop", "distro"]),
    config=st.sampled_from(["", "[wsl2]\nmemory=2GB\n", "memory=64GB\n", "[wsl2]\nmemory=all\n"]),
    has_rule=st.booleans(),
    lan_port=st.sampled_from([0, 443]),
)
def test_every_plan_is_whole(
    engines: frozenset[str],
    ollama: frozenset[str],
    mode: str,
    wish_engine: str,
    config: str,
    has_rule: bool,
    lan_port: int,
) -> None:
    machine = Machine(
        "store", UBUNTU, mode, engines, ollama, config=config, has_rule=has_rule, has_systemd=False
    )
    plan = make_plan(machine, Wish(engine=wish_engine, lan_port=lan_port), FOLDERS, "python")
    ids = [step.id for step in plan.steps]
    assert len(ids) == len(set(ids))
    assert plan.engine == (wish_engine or ("distro" if engines == {"distro"} else "desktop"))
    for step in plan.steps:
        # Nothing is changed that cannot be looked at first and taken back.
        if step.place != "hand" and step.id not in ("update", "generation"):
            assert step.preview, step.id
            assert step.undo, step.id
    if plan.engine == "distro":
        # Containers reach Ollama in the end, on whichever side it is.
        assert plan.ollama == "distro" or "ollama-reach" in ids
        assert plan.ollama == "windows" or "ollama-bridge" in ids


def after(machine: Machine, step: Step) -> Machine:
    """The machine once the step was done, as Windows would tell it then."""
    port = 443
    changes: dict[str, dict[str, Any]] = {
        "update": {"wsl": "store"},
        "generation": {"distributions": (Distribution("Ubuntu", 2, is_default=True),)},
        "config": {
            "config": merge(machine.config, wanted(str(step.params.get("memory", "")))),
            "mode": "nat",
        },
        "systemd": {"has_systemd": True},
        "one-engine": {"engines": frozenset({"desktop"})},
        "desktop": {"engines": machine.engines | {"desktop"}},
        "engine": {"engines": machine.engines | {"distro"}},
        "ollama-windows": {"ollama": machine.ollama | {"windows"}},
        "ollama-distro": {"ollama": machine.ollama | {"distro"}},
        "ollama-reach": {"ollama_host": "0.0.0.0", "has_rule": True},
        "ollama-bridge": {"distro_ollama_host": "172.17.0.1:11434"},
        "autostart": {"has_autostart": True},
        "lan": {"has_lan_rule": True, "proxied": {port: machine.address}},
        "restart": {"mode": "nat"},
    }
    return replace(machine, **changes[step.id])


@given(
    wsl=st.sampled_from(["inbox", "old", "store"]),
    generation=st.sampled_from([1, 2]),
    engines=st.frozensets(CHOICES),
    ollama=st.frozensets(st.sampled_from(["windows", "distro"])),
    mode=st.sampled_from(["nat", "mirrored", ""]),
    memory=st.sampled_from([0, 8 << 30, 16 << 30, 64 << 30]),
    config=st.sampled_from(["", "[wsl2]\nmemory=2GB\n", "memory=64GB\n", "[wsl2]\r\nmemory=8000MB # x\r\n"]),
    lan_port=st.sampled_from([0, 443]),
)
def test_a_plan_that_was_carried_out_leaves_nothing(
    wsl: str,
    generation: int,
    engines: frozenset[str],
    ollama: frozenset[str],
    mode: str,
    memory: int,
    config: str,
    lan_port: int,
) -> None:
    machine = Machine(
        wsl,
        (Distribution("docker-desktop", 2), Distribution("Ubuntu", generation, is_default=True)),
        mode,
        engines,
        ollama,
        memory=memory,
        config=config,
        has_systemd=False,
        address="172.24.1.2",
    )
    wish = Wish(lan_port=lan_port)
    # Who has two engines keeps one of them, and a second look then follows that choice.
    for _ in range(2):
        for step in make_plan(machine, wish, FOLDERS, "python").steps:
            machine = after(machine, step)
    assert make_plan(machine, wish, FOLDERS, "python").steps == ()
