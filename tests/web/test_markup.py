"""What a hostile answer becomes, read by a CommonMark parser that is not ours."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from rfctl.web.markup import Part, plain, quote, shorten, split_answer

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
EVIL = "http://evil.example/?q=1"
ACTIVE = {"image", "link_open", "html_inline", "html_block"}


def read(text: str) -> list[Token]:
    """All tokens, those inside of lines included."""
    return [token for block in READER.parse(text) for token in (block, *(block.children or ()))]


def is_inert(text: str) -> bool:
    """Whether nothing here is fetched, run, or followed by a click."""
    tokens = read(text)
    # GFM makes links of bare addresses, which this parser does not.
    bare = any(re.search("https?://|www[.]", one.content) for one in tokens if one.type == "text")
    return not bare and not ACTIVE & {one.type for one in tokens}


def show(text: str) -> str:
    """What a reader sees, without the characters that are invisible."""
    return "".join(one.content for one in read(text) if one.type in ("text", "code_inline")).replace(
        "\u200b", ""
    )


@pytest.mark.parametrize(
    "hostile",
    [
        f"![x]({EVIL})",
        f"![x][1]\n\n[1]: {EVIL}",
        f"[![x]({EVIL})]({EVIL})",
        f"[click]({EVIL})",
        f"<{EVIL}>",
        f'<img src="{EVIL}">',
        f"<img\nsrc={EVIL}>",
        f"&#33;[x]({EVIL})",
        f"\\![x]({EVIL})",
        f"\\\\![x]({EVIL})",
        f"`` ` ``![x]({EVIL})`",
        f"`a\n\n![x]({EVIL})`",
        f"| a | b |\n|---|---|\n| `c | ![x]({EVIL}) ` |",
        f'<a title="`">![x]({EVIL})`',
        f"$`$![x]({EVIL})`",
        f"- ```\n  ![x]({EVIL})",
        f"> ```\n![x]({EVIL})",
        f"    ![x]({EVIL})",
        f"a\u200b!\u200b[x]({EVIL})",
        f"!\u0000[x]({EVIL})",
        f"[1]({EVIL}) and ![1]({EVIL})",
    ],
)
def test_nothing_hostile_becomes_active(hostile: str) -> None:
    for part in split_answer(hostile, {1}):
        if not part.is_code:
            assert is_inert(part.text), part.text
    for text in (plain(hostile), quote(hostile)):
        assert is_inert(text), text


WORDS = "![ [ ] ]( ( ) ]: [1] ` `` ``` ~~~ < > <!-- \\ ! $ $$ ~ : :red[ &#91; &lt; # === --- a 图 * _ |---|"
BLANKS = (
    "\n",
    "\n\n",
    " ",
    "    ",
    "- ",
    "1. ",
    "> ",
    "| ",
    "<img src=",
    "\u200b",
    "\x1b[31m",
    "\u202e",
    "\t",
)
PIECES = st.sampled_from((*WORDS.split(), *BLANKS, EVIL))


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=24).map("".join))
def test_no_text_at_all_becomes_active(hostile: str) -> None:
    for part in split_answer(hostile, {1}):
        if not part.is_code:
            assert is_inert(part.text), part.text
            assert not re.search(r"[\x00-\x08\x0e-\x1f\x7f\u202e]", part.text)
    for text in (plain(hostile), quote(hostile)):
        assert is_inert(text), text


@settings(max_examples=100, deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join))
def test_a_label_shows_the_characters_themselves(text: str) -> None:
    shown = show("x" + plain(text) + "x")
    visible = re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202e]", "", text)
    assert shown == "x" + " ".join(visible.split()) + "x"


def test_what_people_want_of_markdown_stays() -> None:
    text = "**Yes**, see:\n\n- one\n- two `a[0]`\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    (part,) = split_answer(text)
    kinds = {token.type for token in read(part.text)}
    assert {"strong_open", "bullet_list_open", "code_inline", "table_open"} <= kinds
    assert "a[0]" in show(part.text)


def test_prices_ranges_and_times_stay_what_they_are() -> None:
    (part,) = split_answer("3~5 days, $5 or $10, 10:30:45, C:\\Temp, x < y, a&amp;b")
    assert show(part.text) == "3~5 days, $5 or $10, 10:30:45, C:\\Temp, x < y, a&amp;b"
    assert part.text.count("\\$") == 2
    assert part.text.count("\\~") == 1


def test_an_address_can_be_read_and_copied_but_not_followed() -> None:
    (part,) = split_answer("See https://example.com/a?b=c_d_e, www.example.com.")
    assert part.text == "See `https://example.com/a?b=c_d_e`, `www.example.com`."
    assert show(plain("www.x.com is http://x")) == "www.x.com is http://x"


def test_emoji_codes_and_directives_of_streamlit_are_text() -> None:
    (part,) = split_answer("a :smile: b :material/home: c :red[d] e ::f")
    assert not re.search(r"(?<!\\):(?:smile:|material/|red\[|:)", part.text)
    assert not re.search(r":(?:smile:|material/)", plain("a :smile: b :material/home:"))


def test_fenced_code_is_a_part_of_its_own() -> None:
    text = f"before\n```python\nprint('![x]({EVIL})')\n```\nafter\n~~~\nopen"
    assert list(split_answer(text)) == [
        Part("before"),
        Part(f"print('![x]({EVIL})')", True, "python"),
        Part("after"),
        Part("open", True),
    ]


def test_citations_become_badges_where_there_is_a_source() -> None:
    (part,) = split_answer("Heron. [1][3] Blue [2] [3](x)", {1, 3})
    assert part.text == "Heron. :blue-badge[1]:blue-badge[3] Blue \\[2\\] \\[3\\](x)"


def test_headings_of_an_answer_are_small() -> None:
    (part,) = split_answer("# Big\ntext\n===\nmore\n---\nend")
    tags = {token.tag for token in read(part.text) if token.type == "heading_open"}
    assert tags == {"h5"}


def test_secrets_and_controls_do_not_reach_the_page() -> None:
    secret = "ragflow-" + "k" * 43
    assert secret not in plain(f"key {secret}")
    assert secret not in "".join(part.text for part in split_answer(f"key {secret}"))
    assert shorten("a\x1b[31m\n b" * 40, 20) == "a[31m ba[31m ba[31m…"
