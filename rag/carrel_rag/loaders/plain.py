"""Plain text: paragraphs between blank lines; the text stays exactly as it was decoded. Knows no mark-up."""

from __future__ import annotations

import re

from carrel_rag.loaders.extracted import Extracted, Span, clean_text

_BLANK_LINE = re.compile(r"(?:\r\n|\r(?!\n)|\n)[^\S\r\n]*(?:\r\n|\r|\n)\s*")


def extract_plain(text: str) -> Extracted:
    """Offsets of spans are offsets into ``text`` itself."""
    text = clean_text(text)
    spans: list[Span] = []
    start = 0
    for gap in [*_BLANK_LINE.finditer(text), None]:
        end = gap.start() if gap else len(text)
        piece = text[start:end]
        body = piece.strip()
        if body:
            first = start + (len(piece) - len(piece.lstrip()))
            spans.append(Span(first, first + len(body), "paragraph", None, ()))
        start = gap.end() if gap else end
    return Extracted(text=text, spans=tuple(spans), media_type="text/plain")
