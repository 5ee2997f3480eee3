"""What a file is, by its bytes; its name only tells text formats apart. Reads nothing else."""

from __future__ import annotations

import codecs
import io
import re
import zipfile
from typing import Literal

from carrel_rag.errors import UnreadableDocumentError

Format = Literal["pdf", "docx", "html", "markdown", "csv", "text"]

MEDIA_TYPES: dict[Format, str] = {
    "pdf": "application/pdf",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "html": "text/html",
    "markdown": "text/markdown",
    "csv": "text/csv",
    "text": "text/plain",
}
_PDF_MAGIC = b"%PDF-"
_BINARY_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x7fELF", "a program"),
    (b"MZ\x90", "a program"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office file of the old format, or one with a password"),
    (b"{\\rtf", "an RTF document"),
    (b"PAR1", "a Parquet file"),
)
_HTML_START = re.compile(
    rb"^\s*(?:<\?xml[^>]*>\s*)?(?:<!--(?:(?!-->).)*-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.I | re.S
)
_BY_NAME: dict[str, Format] = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".mdx": "markdown",
    ".csv": "csv",
    ".tsv": "csv",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
}


def detect_format(data: bytes, suffix: str) -> Format:
    """The format of ``data``; ``suffix`` (such as ``.md``) only decides between kinds of text.

    >>> detect_format(b"%PDF-1.7 ...", ".txt")
    'pdf'

    Raises:
        UnreadableDocumentError: an image, an archive or another type that is not read; the message names it.
    """
    if _is_pdf(data):
        return "pdf"
    if data.startswith(b"PK\x03\x04"):
        return _detect_zip(data)
    for magic, what in _BINARY_MAGIC:
        if data.startswith(magic) and not (magic == b"BM" and b"\x00" not in data[:64]):
            raise UnreadableDocumentError(
                f"this is {what}, which is not read. Read are PDF, DOCX, HTML, Markdown, CSV, text."
            )
    if _HTML_START.match(data[:4096]):
        return "html"
    return _BY_NAME.get(suffix.lower(), "text")


def _is_pdf(data: bytes) -> bool:
    """Whether it begins as a PDF, or holds one behind other bytes, as readers of PDF allow within the first 1024.

    A note that only speaks of PDF has no objects, or is whole UTF-8, which the bytes of a PDF seldom are.
    """
    if data[:1024].removeprefix(codecs.BOM_UTF8).lstrip(b"\x00 \t\r\n\f\v").startswith(_PDF_MAGIC):
        return True
    return _PDF_MAGIC in data[:1024] and b"endobj" in data and not _is_utf8(data)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\x00" not in data


def _detect_zip(data: bytes) -> Format:
    try:
        names = set(zipfile.ZipFile(io.BytesIO(data)).namelist())
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise UnreadableDocumentError(f"this looks like a DOCX or ZIP file, but it is damaged: {error}.") from error
    if "word/document.xml" in names:
        return "docx"
    what = "a ZIP archive"
    if any(name.startswith("xl/") for name in names):
        what = "an Excel workbook (save it as CSV)"
    elif any(name.startswith("ppt/") for name in names):
        what = "a PowerPoint file (save it as PDF)"
    raise UnreadableDocumentError(f"this is {what}, which is not read. Read are PDF, DOCX, HTML, Markdown, CSV, text.")
