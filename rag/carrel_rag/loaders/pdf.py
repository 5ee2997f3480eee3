"""PDF through pypdfium2: characters and their boxes; ``pdf_layout`` makes sense of them. Runs no OCR.

PDFium keeps state of its own for the whole process and may not be entered by two threads, so every call holds one lock.
"""

from __future__ import annotations

import threading
from collections import Counter
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
        glyphs = [_glyph(textpage, i) for i in range(textpage.count_chars())]
        return make_lines(glyphs, page_size=page.get_size())
    finally:
        textpage.close()
        page.close()


def _glyph(textpage: Any, index: int) -> Glyph:
    left, bottom, right, top = textpage.get_charbox(index, loose=True)
    char = chr(pdfium_c.FPDFText_GetUnicode(textpage.raw, index))
    return Glyph(char, left, bottom, right, top)


def _build(pages: list[list[Paragraph]], title: str) -> Extracted:
    builder = TextBuilder()
    sizes = _heading_sizes(pages)
    for number, paragraphs in enumerate(pages, start=1):
        for paragraph in paragraphs:
            size = round(paragraph.size, 1)
            if size in sizes and len(paragraph.text) <= _MAX_HEADING_CHARACTERS and paragraph.kind == "paragraph":
                builder.heading(paragraph.text, level=sizes.index(size) + 1, page=number)
            else:
                builder.add(paragraph.text, paragraph.kind, page=number)
    return builder.build(title=title, media_type="application/pdf")


def _heading_sizes(pages: list[list[Paragraph]]) -> list[float]:
    """Sizes clearly above the body's, largest first: the levels of headings."""
    weights: Counter[float] = Counter()
    for paragraphs in pages:
        for paragraph in paragraphs:
            weights[round(paragraph.size, 1)] += len(paragraph.text)
    if not weights:
        return []
    body = weights.most_common(1)[0][0]
    return sorted((size for size in weights if size >= body * _HEADING_RATIO), reverse=True)
