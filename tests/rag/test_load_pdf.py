"""PDF: reading order, joined lines, heads and feet, pages, and the ways a PDF can refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from carrel_rag.errors import (
    DocumentTooLargeError,
    EncryptedDocumentError,
    NeedsOCRError,
    UnreadableDocumentError,
)
from carrel_rag.loaders import Extracted, Limits, load_bytes, load_file
from pdf_maker import make_pdf


def page_of(document: Extracted, words: str) -> int | None:
    start = document.text.index(words)
    return next(span.page for span in document.spans if span.start <= start < span.end)


def test_left_column_is_read_before_the_right_one_whatever_the_stream_says(data: Path) -> None:
    document = load_file(data / "two-column-right-first.pdf")
    assert document.text.index("of which 1,207 burned") < document.text.index("Three findings stand out")
    assert document.text.index("Appendix A.") < document.text.index("Appendix B.")


def test_heads_and_feet_that_come_back_are_left_out(data: Path) -> None:
    document = load_file(data / "two-column-right-first.pdf")
    assert "Saltmere Gazette" not in document.text
    assert "CC0 test document" not in document.text


def test_every_passage_knows_its_page(data: Path) -> None:
    document = load_file(data / "two-column-right-first.pdf")
    assert page_of(document, "1,207 burned") == 1
    assert page_of(document, "harbour office, cabinet 9") == 2


def test_chinese_lines_grow_together_without_blanks(data: Path) -> None:
    document = load_file(data / "zh-policy-cidfont.pdf")
    assert "旧版办法同时废止。" in document.text
    assert "申诉电话0571-5550-0136，" in document.text
    assert "\ufffd" not in document.text


def test_rows_of_a_table_carry_their_column_names(data: Path) -> None:
    document = load_file(data / "zh-policy-cidfont.pdf")
    assert "等级: 墨玉卡; 年度消费门槛（元）: 12000; 积分倍率: 1.5; 生日礼券（元）: 100" in document.text
    assert page_of(document, "积分倍率: 1.5") == 2


def test_headings_by_size_give_the_section(data: Path) -> None:
    document = load_file(data / "zh-policy-cidfont.pdf")
    span = next(s for s in document.spans if "电子书一经下载" in document.text[s.start : s.end])
    assert span.section[-1] == "第三条 退货"


def test_a_word_hyphenated_at_the_end_of_a_line_is_whole() -> None:
    lines = [
        (72, 700, 11, "The survey was made with great exact-"),
        (72, 686, 11, "ness over eleven nights of one long winter."),
    ]
    assert (
        load_bytes(make_pdf([lines]), "a.pdf").text
        == "The survey was made with great exactness over eleven nights of one long winter."
    )


def test_a_gap_between_lines_parts_paragraphs() -> None:
    lines = [(72, 700, 11, "One paragraph stands here"), (72, 650, 11, "Another stands far below")]
    assert load_bytes(make_pdf([lines]), "a.pdf").text == "One paragraph stands here\n\nAnother stands far below"


def test_a_sentence_cut_by_a_figure_is_joined() -> None:
    lines = [
        (72, 700, 11, "The tower was built by the masons of the northern"),
        (200, 620, 8, "Figure label"),
        (72, 540, 11, "quay in eleven months and a day."),
    ]
    document = load_bytes(make_pdf([lines]), "a.pdf")
    assert "masons of the northern quay in eleven months" in document.text
    assert "Figure label" in document.text


def test_a_picture_of_text_needs_ocr() -> None:
    with pytest.raises(NeedsOCRError, match=r"no extractable text \(needs OCR\)"):
        load_bytes(make_pdf([[]]), "scan.pdf")


def test_a_password_is_named(data: Path) -> None:
    with pytest.raises(EncryptedDocumentError, match="password"):
        load_file(data / "encrypted-needs-password.pdf")


def test_a_damaged_file_is_named_as_such(data: Path) -> None:
    whole = (data / "two-column-right-first.pdf").read_bytes()
    with pytest.raises(UnreadableDocumentError, match="damaged"):
        load_bytes(b"%PDF-1.7\n" + whole[200:400], "broken.pdf")


def test_too_many_pages_are_refused() -> None:
    pdf = make_pdf([[(72, 700, 11, f"page {n}")] for n in range(3)])
    with pytest.raises(DocumentTooLargeError, match="max_pages=2"):
        load_bytes(pdf, "long.pdf", Limits(max_pages=2))


def test_a_pdf_behind_other_bytes_is_read() -> None:
    pdf = make_pdf([[(72, 700, 11, "Behind a header, caf\xe9")]])
    for junk in (b"\r\n\n", b"\xef\xbb\xbf", b"HTTP/1.1 200 OK\r\n\r\n"):
        assert load_bytes(junk + pdf, "a.pdf").text.startswith("Behind a header")


def test_rows_of_numbers_in_the_margin_are_no_feet() -> None:
    pages = []
    for number in range(1, 4):
        rows = [
            [
                (72.0, y, 11.0, f"{number:02}/10/2024"),
                (250.0, y, 11.0, f"{number},{y}.00"),
                (400.0, y, 11.0, "5,101.00"),
            ]
            for y in (800, 786, 772, 60)
        ]
        feet = [(280.0, 30.0, 9.0, f"- {number} -"), (500.0, 16.0, 9.0, f"{number} / 3")]
        pages.append([*(cell for row in rows for cell in row), *feet])
    text = load_bytes(make_pdf(pages), "statement.pdf").text
    assert text.count("5,101.00") == 12
    assert "- 2 -" not in text
    assert "2 / 3" not in text
