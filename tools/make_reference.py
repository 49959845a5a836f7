"""Write docs/{en,zh}/reference.md from the command line itself: every command, setting, exit code and error.

python tools/make_reference.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from rfctl.cli.root import root
from rfctl.core.catalog import LANGUAGES, entries
from rfctl.core.setting import KEYS

ROOT = Path(__file__).resolve().parent.parent
COMMON = {"json_mode", "output_mode", "quiet", "language", "profile"}
WORDS = {
    "en": {
        "title": "Command reference",
        "made": "Made from the program by `python tools/make_reference.py`; every command also has `--help`.",
        "common": "Options of every command",
        "commands": "Commands",
        "settings": "Settings",
        "settings-head": ("setting", "default", "environment", "meaning"),
        "exit": "Exit codes",
        "errors": "Errors and findings",
        "errors-head": ("id", "message", "what to do"),
        "exit-codes": {
            0: "done, or nothing to do",
            1: "the operation failed",
            2: "wrong usage or configuration",
            3: "a service cannot be reached, or a wait ended",
            4: "authentication failed",
            5: "negative verdict: unsupported, different, unhealthy, under the bound",
            6: "partly done",
            7: "refused: destructive without `--yes`, or not ours",
            10: "changes are pending (`--detailed-exitcode`)",
            70: "a bug in rfctl",
            130: "interrupted",
        },
    },
    "zh": {
        "title": "命令参考",
        "made": "由程序生成（`python tools/make_reference.py`）；每个命令都有 `--help`。",
        "common": "所有命令通用的选项",
        "commands": "命令",
        "settings": "设置",
        "settings-head": ("设置", "默认值", "环境变量", "含义"),
        "exit": "退出码",
        "errors": "错误与检查结果",
        "errors-head": ("编号", "信息", "处理办法"),
        "exit-codes": {
            0: "完成，或无需操作",
            1: "操作失败",
            2: "用法或配置错误",
            3: "服务无法连接，或等待超时",
            4: "认证失败",
            5: "否定结论：不支持、不一致、不健康、低于下限",
            6: "部分完成",
            7: "拒绝执行：破坏性操作缺少 `--yes`，或对象不归 rfctl 管理",
            10: "有待执行的更改（`--detailed-exitcode`）",
            70: "rfctl 的缺陷",
            130: "被中断",
        },
    },
}


def write_reference(language: str) -> str:
    """The page in one language."""
    words = WORDS[language]
    texts = entries(language)
    lines = [f"# {words['title']}", "", str(words["made"]), "", f"## {words['common']}", ""]
    with click.Context(root, info_name="rfctl") as context:
        context.obj = None
        lines += _options(root, language, "", common=True)
        lines += ["", f"## {words['commands']}"]
        for name in root.list_commands(context):
            command = root.get_command(context, name)
            assert command is not None
            lines += _describe(command, (name,), language)
    lines += ["", f"## {words['settings']}", "", *_row(words["settings-head"]), "|---|---|---|---|"]
    for key in KEYS:
        variables = ", ".join(f"`{name}`" for name in key.variables)
        default = f"`{key.default}`" if key.default else "-"
        lines += _row((f"`{key.name}`", default, variables, _text(f"help.setting.{key.name}", language)))
    lines += ["", f"## {words['exit']}", ""]
    codes = words["exit-codes"]
    assert isinstance(codes, dict)
    lines += [f"- `{code}` {meaning}" for code, meaning in codes.items()]
    lines += ["", f"## {words['errors']}", "", *_row(words["errors-head"]), "|---|---|---|"]
    for id in sorted(texts):
        entry = texts[id]
        if entry.get("next") and not id.startswith("help."):
            lines += _row((f"`{id}`", entry.get("message", ""), entry["next"]))
    return "\n".join(lines) + "\n"


def _describe(command: click.Command, path: tuple[str, ...], language: str) -> list[str]:
    key = ".".join(path)
    help = _text(f"help.{key}", language)
    if isinstance(command, click.Group):
        lines = ["", f"### rfctl {' '.join(path)}", "", help]
        with click.Context(command, info_name=path[-1]) as context:
            for name in command.list_commands(context):
                verb = command.get_command(context, name)
                assert verb is not None
                lines += _describe(verb, (*path, name), language)
        return lines
    arguments = [
        parameter.make_metavar(click.Context(command))
        for parameter in command.params
        if isinstance(parameter, click.Argument)
    ]
    usage = " ".join(["rfctl", *path, *arguments])
    level = "####" if len(path) > 1 else "###"
    detail = _text(f"help.{key}", language, "why")
    return [
        "",
        f"{level} {usage}",
        "",
        help,
        *(["", detail] if detail else []),
        *_options(command, language, key),
    ]


def _options(command: click.Command, language: str, key: str, *, common: bool = False) -> list[str]:
    rows = []
    for parameter in command.params:
        if (
            not isinstance(parameter, click.Option)
            or (parameter.name in COMMON) != common
            or parameter.hidden
        ):
            continue
        names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
        help = (
            _text(f"help.{key}.{parameter.name}", language)
            or _text(f"help.option.{parameter.name}", language)
            or (parameter.help or "")
        )
        rows.append(f"- {names} {help}".rstrip())
    return ["", *rows] if rows and not common else rows


def _text(id: str, language: str, part: str = "message") -> str:
    return entries(language).get(id, {}).get(part, "")


def _row(cells: object) -> list[str]:
    assert isinstance(cells, tuple)
    return ["| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"]


if __name__ == "__main__":
    for language in LANGUAGES:
        path = ROOT / "docs" / language / "reference.md"
        path.write_text(write_reference(language), encoding="utf-8", newline="\n")
        sys.stdout.write(f"{path}\n")
