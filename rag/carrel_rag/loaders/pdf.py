"""PDF through pypdfium2: characters and their boxes; ``pdf_layout`` makes sense of them. Runs no OCR.

PDFium keeps state of its own for the whole process and may not be entered by two threads, so every call holds one lock.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from carrel_rag.errors import EncryptedDocumentError, UnreadableDocumentError
from carrel_rag.loaders.extracted import Extracted, TextBuilder
from carrel_rag.loaders.limits import Limits, check_limit
from carrel_rag.loaders.pdf_layout import Glyph, Line, Paragraph, make_lines, make_paragraphs, page_furniture

_PDFIUM = threading.Lock()  # PDFium is one per process, so its lock is too
_HEADING_RATIO = 1.12  # a heading is at least this much larger than the body text
_MAX_HEADING_CHARACTERS = 120
_BOLD = re.compile("bold|black|heavy", re.I)
_SLANTED = re.compile("italic|oblique", re.I)


def extract_pdf(data: bytes, limits: Limits) -> Extracted:
    """Page numbers from 1 on every span; headings by their size.

    Raises:
        EncryptedDocumentError: it opens only with a password.
        UnreadableDocumentError: damaged.
        DocumentTooLargeError: more pages than ``limits.max_pages``.
    """
    with _PDFIUM:
        title, pages = _read_pages(data, limits)
    furniture = page_furniture(pages)
    paragraphs = [make_paragraphs([line for line in page if line not in furniture]) for page in pages]
    return _build(paragraphs, title)


def _read_pages(data: bytes, limits: Limits) -> tuple[str, list[list[Line]]]:
    try:
        document = pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        if "password" in str(error).lower():
            raise EncryptedDocumentError(
                "this PDF is encrypted and opens only with a password. Save a copy without the password and add that."
            ) from error
        raise UnreadableDocumentError(f"this PDF is damaged: {error}") from error
    try:
        check_limit(len(document), limits.max_pages, "max_pages", "pages in the PDF")
        title = str(document.get_metadata_dict().get("Title", "")).strip()
        return title, [_read_page(document, index) for index in range(len(document))]
    finally:
        document.close()


def _read_page(document: Any, index: int) -> list[Line]:
    try:
        page = document[index]
    except pdfium.PdfiumError:
        return []  # one damaged page does not lose the others
    textpage = page.get_textpage()
    try:
        return make_lines(_glyphs(textpage), page_size=page.get_size())
    finally:
        textpage.close()
        page.close()


def _glyphs(textpage: Any) -> Iterator[Glyph]:
    """The characters of a page in the order of its stream; the font's name is asked at the ends of lines only."""
    chars = [chr(pdfium_c.FPDFText_GetUnicode(textpage.raw, i)) for i in range(textpage.count_chars())]
    for index, char in enumerate(chars):
        left, bottom, right, top = textpage.get_charbox(index, loose=True)
        at_end = (
            index == 0 or chars[index - 1] in "\r\n" or "".join(chars[index + 1 : index + 3]).lstrip(" ")[:1] in "\r\n"
        )
        yield Glyph(char, left, bottom, right, top, _font(textpage, index) if at_end else "")


def _font(textpage: Any, index: int) -> str:
    name, flags = ctypes.create_string_buffer(128), ctypes.c_int()
    length = pdfium_c.FPDFText_GetFontInfo(textpage.raw, index, name, 128, ctypes.byref(flags))
    return name.value.decode("utf-8", "replace") if length else ""


def _build(pages: list[list[Paragraph]], title: str) -> Extracted:
    builder = TextBuilder()
    ranks = _heading_ranks(pages)
    for number, paragraphs in enumerate(pages, start=1):
        for paragraph in paragraphs:
            level = ranks.get(_look(paragraph))
            if level is not None and _can_be_heading(paragraph):
                builder.heading(paragraph.text, level=level, page=number)
            else:
                builder.add(paragraph.text, paragraph.kind, page=number)
    return builder.build(title=title, media_type="application/pdf")


def _look(paragraph: Paragraph) -> tuple[float, str]:
    return round(paragraph.size, 1), paragraph.font


def _can_be_heading(paragraph: Paragraph) -> bool:
    short = len(paragraph.text) <= _MAX_HEADING_CHARACTERS and any(char.isalpha() for char in paragraph.text)
    return short and paragraph.kind == "paragraph" and not paragraph.text.endswith((".", ":", ",", "。", "：", "，"))


def _heading_ranks(pages: list[list[Paragraph]]) -> dict[tuple[float, str], int]:
    """Level by look: larger than the body text, or as large and bold, or as large and slanted."""
    weights: Counter[tuple[float, str]] = Counter()
    for paragraphs in pages:
        for paragraph in paragraphs:
            weights[_look(paragraph)] += len(paragraph.text)
    if not weights:
        return {}
    size, font = weights.most_common(1)[0][0]
    larger = sorted({s for s, _ in weights if s >= size * _HEADING_RATIO}, reverse=True)
    ranks = {look: larger.index(look[0]) + 1 for look in weights if look[0] in larger}
    for look in weights:
        if look not in ranks and look[0] >= 0.95 * size and look[1] != font:
            if _BOLD.search(look[1]) and not _BOLD.search(font):
                ranks[look] = len(larger) + 1
            elif _SLANTED.search(look[1]) and not _SLANTED.search(font):
                ranks[look] = len(larger) + 2
    return ranks
