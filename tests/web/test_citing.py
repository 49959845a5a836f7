"""Citations that are found by the wording."""

from __future__ import annotations

from rfctl.ragflow_client.reference import Source
from rfctl.web.citing import cite_by_words


def source(number: int, content: str) -> Source:
    return Source(number, "manual.pdf", (number,), None, 0.5, 0.5, 0.5, content)


MANUAL = (
    source(1, "Files that have gone from the folder are listed and removed with the option prune."),
    source(2, "Without the option num-ctx it is 8192 tokens, or less where the memory is smaller."),
)
CHINESE = (
    source(1, "压缩机的保修期为三年，自购买之日起计算。"),
    source(2, "滤网应每两周清洗一次，不得使用热水。"),
)


def test_a_sentence_cites_the_passage_it_follows() -> None:
    text, sources = cite_by_words("Yes. Without the option num-ctx it is 8192 tokens.", MANUAL)
    assert text == "Yes. Without the option num-ctx it is 8192 tokens. [1]"
    assert [(one.number, one.pages, one.cited) for one in sources] == [(1, (2,), True), (2, (1,), False)]


def test_chinese_is_compared_by_the_character() -> None:
    text, sources = cite_by_words(
        "滤网应每两周清洗一次。压缩机的保修期为三年。您好，很高兴为您服务。", CHINESE
    )
    assert text == "滤网应每两周清洗一次。 [1]压缩机的保修期为三年。 [2]您好，很高兴为您服务。"
    assert [one.pages for one in sources] == [(2,), (1,)]


def test_what_follows_no_passage_is_left_as_it_is() -> None:
    said = "The weather is fine today and birds sing."
    assert cite_by_words(said, MANUAL) == (said, MANUAL)
    assert cite_by_words("8192 tokens.", MANUAL) == ("8192 tokens.", MANUAL)
    assert cite_by_words("", ()) == ("", ())


def test_code_and_tables_stay_whole() -> None:
    said = (
        "```\nWithout the option num-ctx it is 8192 tokens.\n```\n"
        "| Without the option num-ctx it is 8192 tokens. | x |"
    )
    assert cite_by_words(said, MANUAL) == (said, MANUAL)
