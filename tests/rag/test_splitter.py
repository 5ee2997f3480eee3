"""Chunks: nothing lost, order kept, budget held, offsets exact; and cuts where a reader would cut."""

from __future__ import annotations

import time

from carrel_rag.loaders import Extracted, TextBuilder, load_bytes
from carrel_rag.loaders.plain import extract_plain
from carrel_rag.splitter import _CLAUSE, SplitterConfig, TextChunk, split_document
from hypothesis import given, settings
from hypothesis import strategies as st
from rag_fakes import WordCounter, count_words

SMALL = SplitterConfig(chunk_tokens=16, overlap_tokens=4)

words = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30)
prose = st.lists(
    st.sampled_from(
        ["灯笼属于商铺", "lantern", "。", "，", ". ", " ", "\n", "\n\n", "\r\n", "4,812", "Dr. Lin ", "😀", "！？"]
    ),
    max_size=80,
).map("".join)


def texts(document: Extracted, chunks: list[TextChunk]) -> list[str]:
    return [document.text[chunk.start : chunk.end] for chunk in chunks]


def check(document: Extracted, config: SplitterConfig) -> list[TextChunk]:
    """The properties that hold for every document."""
    chunks = split_document(document, WordCounter(), config)
    assert all(count_words(text) <= config.chunk_tokens for text in texts(document, chunks))
    assert all(text.strip() for text in texts(document, chunks))
    assert chunks == sorted(chunks, key=lambda chunk: (chunk.start, chunk.end))
    kept = {i for chunk in chunks for i in range(chunk.start, chunk.end)}
    sections = {heading for chunk in chunks for heading in chunk.section}
    for span in document.spans:
        lost = [i for i in range(span.start, span.end) if i not in kept and not document.text[i].isspace()]
        assert not lost or (span.kind == "heading" and document.text[span.start : span.end] in sections)
    return chunks


@settings(max_examples=150, deadline=None)
@given(text=prose | words)
def test_plain_text_is_kept_whole_in_order_within_the_budget(text: str) -> None:
    document = extract_plain(text)
    chunks = check(document, SMALL)
    covered = {i for chunk in chunks for i in range(chunk.start, chunk.end)}
    assert all(i in covered for i, char in enumerate(document.text) if not char.isspace())


blocks = st.lists(
    st.tuples(st.sampled_from(["paragraph", "item", "row", "code", "heading1", "heading2"]), prose, st.integers(1, 3)),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(blocks=blocks, overlap=st.integers(0, 8))
def test_structured_documents_are_kept_whole(blocks: list[tuple[str, str, int]], overlap: int) -> None:
    builder = TextBuilder()
    page = 1
    for kind, text, pages in blocks:
        page = max(page, pages)
        if kind.startswith("heading"):
            builder.heading(text, level=int(kind[-1]), page=page)
        else:
            builder.add(text, kind, page=page)  # type: ignore[arg-type]  # the strategy draws kinds only
    check(builder.build(), SplitterConfig(chunk_tokens=16, overlap_tokens=overlap))


def test_a_line_without_end_is_cut_to_the_budget() -> None:
    document = extract_plain("x" * 5000 + " " + "字" * 5000 + " needle-7f3a")
    chunks = check(document, SMALL)
    assert texts(document, chunks)[-1].endswith("needle-7f3a")


def test_chinese_without_blanks_is_cut_at_commas() -> None:
    text = "，".join(f"第{i}号灯笼属于第{i}家商铺" for i in range(200)) + "，全文完。"
    document = extract_plain(text)
    chunks = check(document, SplitterConfig(chunk_tokens=40, overlap_tokens=0))
    assert all(piece.endswith(("，", "。")) for piece in texts(document, chunks))
    assert texts(document, chunks)[-1].endswith("全文完。")


def test_numbers_and_times_are_not_cut() -> None:
    text = "".join(f"第{i}日10:30点亮4,812盏灯笼，用油1,207.5斤：" for i in range(40)) + "共192,480盏。"
    document = extract_plain(text)
    found = texts(document, check(document, SMALL))
    assert "".join(found) == text
    assert all(piece.endswith(("，", "：", "。")) for piece in found)


def test_numbers_in_a_row_are_cut_between_them() -> None:
    document = extract_plain(",".join(f"{n}" for n in range(1000, 1400)))
    found = texts(document, check(document, SplitterConfig(chunk_tokens=16, overlap_tokens=0)))
    assert [number for piece in found for number in piece.strip(",").split(",")] == document.text.split(",")


def test_a_long_row_of_numbers_costs_no_more_than_its_length() -> None:
    for text in ("1," * 100_000, "1," * 100_000 + "x", "1:" * 100_000 + "，", "," * 200_000, "1,,:" * 50_000):
        started = time.process_time()
        assert "".join(_CLAUSE.findall(text)) == text
        assert time.process_time() - started < 5


def test_sentences_are_not_cut_when_they_fit() -> None:
    document = extract_plain("The first sentence is here. Dr. Lin wrote the second one. 第三句在这里。第四句也在。")
    assert texts(document, check(document, SMALL)) == [
        "The first sentence is here. Dr. Lin wrote the second one.",
        "第三句在这里。第四句也在。",
    ]


def test_chunks_overlap_by_whole_sentences() -> None:
    document = extract_plain(
        "One two three four five six. Seven eight. Nine ten eleven twelve thirteen fourteen fifteen."
    )
    assert texts(document, check(document, SMALL)) == [
        "One two three four five six. Seven eight.",
        "Seven eight. Nine ten eleven twelve thirteen fourteen fifteen.",
    ]


def test_a_chunk_stays_on_one_page_and_in_one_section() -> None:
    builder = TextBuilder()
    builder.heading("甲", level=1, page=1)
    builder.add("第一页的话。", page=1)
    builder.add("第二页的话。", page=2)
    builder.heading("乙", level=1, page=2)
    builder.add("另一节。", page=2)
    chunks = check(builder.build(), SMALL)
    assert [(chunk.page, chunk.section) for chunk in chunks] == [(1, ("甲",)), (2, ("甲",)), (2, ("乙",))]


def test_a_heading_without_text_is_a_chunk_of_its_own() -> None:
    builder = TextBuilder()
    builder.heading("Empty", level=1)
    builder.heading("Full", level=1)
    builder.add("Words.")
    builder.heading("Last", level=2)
    document = builder.build()
    assert texts(document, check(document, SMALL)) == ["Empty", "Words.", "Last"]


def test_rows_and_code_are_whole_when_they_fit() -> None:
    source = "| a | b |\n|---|---|\n| one. two. | three |\n| four | five! six |\n\n```\nx = 1. \n\ny = 2\n```\n"
    document = load_bytes(source.encode(), "t.md")
    assert texts(document, check(document, SplitterConfig(chunk_tokens=16, overlap_tokens=0))) == [
        "a: one. two.; b: three",
        "a: four; b: five! six\n\nx = 1. \n\ny = 2",
    ]
