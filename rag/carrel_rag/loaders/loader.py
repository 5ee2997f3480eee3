"""From a file to its text: detects the format and calls the module that reads it. Knows no chunks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from carrel_rag.errors import EmptyDocumentError, NeedsOCRError, UnreadableDocumentError
from carrel_rag.loaders.detect import Format, detect_format
from carrel_rag.loaders.encoding import decode_text
from carrel_rag.loaders.extracted import Extracted
from carrel_rag.loaders.limits import Limits, check_limit


def load_file(path: Path, limits: Limits | None = None) -> Extracted:
    """The text of a file.

    Raises:
        DocumentError: one of its kinds; the message says what is wrong with this file.
    """
    limits = limits or Limits()
    try:
        check_limit(path.stat().st_size, limits.max_file_bytes, "max_file_bytes", "bytes in the file")
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableDocumentError(f"the file cannot be read: {error.strerror or error}.") from error
    return load_bytes(data, path.name, limits)


def load_bytes(data: bytes, name: str, limits: Limits | None = None) -> Extracted:
    """The text of a file's bytes; ``name`` gives the title where the document has none.

    >>> load_bytes("# 灯笼\\n\\n共有4812盏。".encode(), "note.md").title
    '灯笼'

    Raises:
        DocumentError: one of its kinds.
    """
    limits = limits or Limits()
    check_limit(len(data), limits.max_file_bytes, "max_file_bytes", "bytes in the file")
    if not data.strip(b"\x00 \t\r\n\f\v"):
        raise EmptyDocumentError("the file is empty.")
    extracted = _extract(data, detect_format(data, Path(name).suffix), limits)
    if not any(extracted.text[span.start : span.end].strip() for span in extracted.spans):
        if extracted.media_type == "application/pdf":
            raise NeedsOCRError("no extractable text (needs OCR): its pages are pictures. Run OCR over it first.")
        raise EmptyDocumentError("the file is empty: it holds no text.")
    check_limit(len(extracted.text), limits.max_characters, "max_characters", "characters of text")
    return extracted if extracted.title else replace(extracted, title=Path(name).stem)


def _extract(data: bytes, form: Format, limits: Limits) -> Extracted:
    # Each reader brings its own library; only the one that is needed is imported.
    if form == "pdf":
        from carrel_rag.loaders.pdf import extract_pdf

        return extract_pdf(data, limits)
    if form == "docx":
        from carrel_rag.loaders.docx import extract_docx

        return extract_docx(data, limits)
    if form == "html":
        from carrel_rag.loaders.html import extract_html

        return extract_html(data)
    return _extract_text(decode_text(data), form)


def _extract_text(text: str, form: Format) -> Extracted:
    if form == "markdown":
        from carrel_rag.loaders.markdown import extract_markdown

        return extract_markdown(text)
    if form == "csv":
        from carrel_rag.loaders.csv_table import extract_csv

        return extract_csv(text)
    from carrel_rag.loaders.plain import extract_plain

    return extract_plain(text)
