"""Terms and sentences: the same on both sides of a search, in Chinese as in English."""

from __future__ import annotations

import time

import pytest
from carrel_rag.lexical import index_terms, query_terms, stem
from carrel_rag.sentences import split_sentences
from carrel_rag.text import is_chinese, join_wrapped
from hypothesis import given
from hypothesis import strategies as st


@given(text=st.text(st.characters(codec="utf-8"), max_size=60))
def test_every_question_finds_its_own_text(text: str) -> None:
    assert set(query_terms(text)) <= set(index_terms(text))


def test_chinese_gives_bigrams_and_latin_stays_whole() -> None:
    assert query_terms("墨玉卡VIP积分") == ["墨玉", "玉卡", "vip", "积分"]
    assert query_terms("茶") == ["茶"]


def test_width_and_case_do_not_matter() -> None:
    assert query_terms("ＡＢＣ１２３") == query_terms("abc123")
    assert index_terms("Straße") == index_terms("STRASSE")


def test_numbers_are_the_same_with_and_without_their_marks() -> None:
    assert index_terms("1,207") == ["1", "207"]
    assert set(query_terms("1.5倍")) <= set(index_terms("按1.5倍累积"))


def test_a_question_of_stop_words_keeps_them() -> None:
    assert query_terms("what is this?")
    assert query_terms("什么")


@pytest.mark.parametrize(
    ("one", "other"), [("patented", "patents"), ("batteries", "battery"), ("stopped", "stop"), ("changed", "change")]
)
def test_forms_of_a_word_meet(one: str, other: str) -> None:
    assert stem(one) == stem(other)


def sentences(text: str, *, wrapped_lines: bool = False) -> list[str]:
    return [text[start:end] for start, end in split_sentences(text, wrapped_lines=wrapped_lines)]


@pytest.mark.parametrize(
    "expected",
    [
        ["He lives at 3.5 km.", "She left."],
        ["See Fig. 7 by Dr. Lin, e.g. page 3.", "Then stop!", "Really?"],
        ["“走吧。”", "他说！", "真的吗？", "是的…"],
        ["版本 2.8 发布。", "See docs.", "OK"],
        ["The price is $3.50 (approx. 2 kg).", "Next."],
        ["- one item", "- another. With more.", "3) third"],
    ],
)
def test_sentences(expected: list[str]) -> None:
    for separator in (" ", "\n"):
        found = sentences(separator.join(expected))
        assert found == expected or expected[1].startswith("- another")


def test_wrapped_lines_of_a_text_file_are_one_sentence() -> None:
    text = "The harbour survey counted lanterns along the whole northern\nquay in eleven nights. Short line\nnext line"
    assert sentences(text, wrapped_lines=True) == [
        "The harbour survey counted lanterns along the whole northern\nquay in eleven nights.",
        "Short line",
        "next line",
    ]


@given(text=st.text(st.sampled_from("ab 。.!?\n\r，”)A1"), max_size=60), wrapped=st.booleans())
def test_sentences_hold_all_but_blanks_in_order(text: str, wrapped: bool) -> None:
    ranges = split_sentences(text, wrapped_lines=wrapped)
    assert ranges == sorted(ranges)
    assert "".join("".join(text[s:e].split()) for s, e in ranges) == "".join(text.split())


@pytest.mark.parametrize(
    "run", [" ", "\t", "\u3000", "\n", "\r", " \n", ".", "!", ".!", ")", "…", "，", "a"], ids=ascii
)
def test_a_long_run_costs_no_more_than_its_length(run: str) -> None:
    text = "a" + run * (200_000 // len(run)) + "b"
    started = time.process_time()
    for wrapped in (False, True):
        assert "".join("".join(sentences(text, wrapped_lines=wrapped)).split()) == "".join(text.split())
    assert time.process_time() - started < 5


def test_lines_grow_together() -> None:
    assert join_wrapped("同时废", "止。") == "同时废止。"
    assert join_wrapped("a well-", "known") == "a wellknown"
    assert join_wrapped("in 1990-", "1995") == "in 1990-1995"
    assert join_wrapped("使用 Python", "语言") == "使用 Python 语言"
    assert join_wrapped("0571-5550", "-0136，总店") == "0571-5550-0136，总店"


def test_the_language_of_a_question() -> None:
    assert is_chinese("LLaMA-Factory 如何安装？")
    assert not is_chinese("How do I say 你好?")
    assert not is_chinese("123?")
