"""One Chinese word for one thing, in every text that a user reads.

Where RAGFlow's own interface has a word (`web/src/locales/zh.ts`) it is that one, because a user looks for it
on the page: knowledge base, embedding model, chat model, chunk, session.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rfctl.core.catalog import entries

ROOT = Path(__file__).resolve().parent.parent.parent
# the word -> what is not written for it
TERMS = {
    "嵌入模型": r"向量模型|嵌入式模型|Embedding ?模型",
    "聊天模型": r"对话模型|会话模型",
    "API 密钥": r"API [kK]ey|API密钥|api 密钥",
    "知识库": r"数据集|知识 库|資料庫",
    "助手": r"聊天助手|助理|机器人",
    "会话": r"新对话|以前的对话|这个对话|新的对话",
    "分块": r"片段|切片|文本块|段落",
    "token": r"词元|个令牌",
    "账户": r"账号|帐户|帐号",
    "登录": r"登陆",
    "其他": r"其它",
    "内置引擎": r"嵌入引擎|内嵌引擎|嵌入式引擎",
    "服务器": r"服务端",
    "您": r"你",
}


def read_texts() -> list[tuple[str, str]]:
    """(place, text) of the catalog and of the pages."""
    found = [(f"{id}.{part}", text) for id, entry in entries("zh").items() for part, text in entry.items()]
    pages = [ROOT / "README.zh-CN.md", *ROOT.glob("docs/zh/*.md"), *ROOT.glob("deploy/*/README.zh-CN.md")]
    for page in pages:
        lines = page.read_text("utf-8").splitlines()
        found += [(f"{page.relative_to(ROOT)}:{number}", line) for number, line in enumerate(lines, 1)]
    return found


@pytest.mark.parametrize("word", TERMS)
def test_one_word_for_one_thing(word: str) -> None:
    others = re.compile(TERMS[word])
    texts = read_texts()
    assert len(texts) > 1000
    assert [(place, text) for place, text in texts if others.search(text)] == []
    assert any(word in text for _, text in texts), "a word that nobody uses needs no rule"


def test_no_space_after_a_chinese_word_in_front_of_another() -> None:
    """What a replacement of a Latin word by a Chinese one leaves behind."""
    torn = re.compile(r"API 密钥 [\u4e00-\u9fff]")
    assert [place for place, text in read_texts() if torn.search(text)] == []
