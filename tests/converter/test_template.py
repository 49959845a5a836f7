"""Chat templates come from strangers: they are rendered in a sandbox, with a budget."""

from __future__ import annotations

import sys
import time

import pytest

from rfctl.converter.check_template import starts_with


@pytest.mark.parametrize(
    ("template", "answer"),
    [
        ("{{ bos_token }}{{ messages[0].content }}", True),
        ("{{ messages[0].content }}", False),
        ("{{- bos_token }}{%- for m in messages %}{{ m.role }}{% endfor %}", True),
        ("<s>[INST] {{ messages[0]['content'] }} [/INST]", True),
        ("{% if messages[0].role != 'system' %}{{ raise_exception('no') }}{% endif %}", None),
        ("{% if %}", None),
        ("{{ '=' * 20 }}{{ 7 % 2 }}{{ '%d' % 3 }}", False),
        ("{{ messages[0].missing.deeper }}", None),
        ("{{ ().__class__.__base__.__subclasses__() }}", None),
        ("{{ self.__init__.__globals__ }}", None),
    ],
)
def test_the_first_text(template: str, answer: bool | None) -> None:
    assert starts_with(template, "<s>") is answer


DOUBLE = (
    "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = GROW %}{% endfor %}{{ n.x|length }}"
)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to a limit of memory")
@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10000000000 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ '%9999999999d' % 1 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for a in range(99999) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' }}{% endfor %}",
        DOUBLE.replace("GROW", "n.x + n.x"),
        DOUBLE.replace("GROW", "n.x ~ n.x"),
        DOUBLE.replace("GROW", "n.x|replace('a', n.x)"),
        DOUBLE.replace("GROW", "[n.x, n.x]|join"),
        "{{ 'a'|center(10000000000) }}",
        "{{ 'a'.rjust(10000000000) }}",
        "{{ '{:10000000000}'.format(1) }}",
        "{{ 'a'|indent(10000000000) }}",
        "{{ '%10000000000d'|format(1) }}",
        "{{ lipsum(100000) }}",
        "{{ ('a' * 999999)|replace('a', 'b' * 999999) }}",
    ],
)
def test_greedy_templates_are_stopped(template: str) -> None:
    started = time.monotonic()
    assert starts_with(template, "<s>") is None
    assert time.monotonic() - started < 5


def test_the_trace_function_of_a_debugger_survives() -> None:
    def trace(*arguments: object) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        starts_with("{{ bos_token }}", "<s>")
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)
