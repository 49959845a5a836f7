"""Write docs/en/findings.md and docs/zh/findings.md: what `rfctl model check` finds, from the catalogue of cases
and the message files.

    python tools/make_findings.py
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import rfctl.converter
from rfctl.core.catalog import entries

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(next(iter(rfctl.converter.__path__))) / "data" / "case.toml"
WORDS = {
    "en": {
        "title": "Findings of `rfctl model check`",
        "intro": "Cases that people met between a fine-tune and a running GGUF file, and the finding that tells"
        " each. `rfctl explain ID` prints the text of a finding. The list is made from `data/case.toml` of the"
        " converter and the message files by `tools/make_findings.py`; a test holds a directory with and one"
        " without every case.",
        "error": "error: the model does not convert or load",
        "warn": "warning: it loads and may not do what you expect",
        "info": "note",
        "check": "found from headers and small files",
        "convert": "found while the weights are read, by `rfctl model convert`",
        "case": "Case",
        "severity": "Severity",
        "seen": "Reported in",
        "none": "no report; from the source of llama.cpp's converter",
        "why": "Why",
        "next": "Fix",
        "colon": ": ",
        "semicolon": "; ",
    },
    "zh": {
        "title": "`rfctl model check` 的检查结果",
        "intro": "从微调到可运行的 GGUF 文件之间人们遇到过的问题，以及说明它们的检查结果。"
        "`rfctl explain ID` 会打印某条结果的说明。本页由 `tools/make_findings.py` 根据转换器的 `data/case.toml`"
        " 和消息文件生成；每个案例都有测试：一个含有该问题的目录和一个不含的目录。",
        "error": "错误：模型无法转换或加载",
        "warn": "警告：可以加载，但结果可能与预期不同",
        "info": "提示",
        "check": "由文件头和小文件即可发现",
        "convert": "在 `rfctl model convert` 读取权重时发现",
        "case": "案例",
        "severity": "级别",
        "seen": "见于",
        "none": "没有报告；来自 llama.cpp 转换器的源代码",
        "why": "原因",
        "next": "解决",
        "colon": "：",
        "semicolon": "；",
    },
}


def main() -> None:
    for language in WORDS:
        path = ROOT / "docs" / language / "findings.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(make_page(language), encoding="utf-8")


def make_page(language: str) -> str:
    """The page in `language`, Markdown."""
    words = WORDS[language]
    cases: list[dict[str, Any]] = tomllib.loads(DATA.read_text("utf-8"))["case"]
    lines = [f"# {words['title']}", "", words["intro"], ""]
    for case in cases:
        for id, severity in case["finding"].items():
            lines += _describe(case, id, severity, language)
    return "\n".join(lines).rstrip() + "\n"


def _describe(case: dict[str, Any], id: str, severity: str, language: str) -> list[str]:
    words, colon = WORDS[language], WORDS[language]["colon"]
    entry = entries(language)[id]
    seen = ", ".join(case["seen"]) or words["none"]
    lines = [f"## {case['number']}. `{id}`", "", _name_values(entry["message"]), ""]
    for name in ("why", "next"):
        if entry.get(name):
            lines.append(f"- {words[name]}{colon}{_name_values(entry[name])}")
    lines.append(f"- {words['severity']}{colon}{words[severity]}{words['semicolon']}{words[case['stage']]}")
    return [*lines, f"- {words['seen']}{colon}{seen}", ""]


def _name_values(text: str) -> str:
    """The text with its placeholders as words in capitals, as the usage of a command has them."""
    return (
        re.sub(
            r"\{(\w+)[^}]*\}", lambda match: match[1].upper(), text.replace("{{", "\0").replace("}}", "\1")
        )
        .replace("\0", "{")
        .replace("\1", "}")
    )


if __name__ == "__main__":
    main()
