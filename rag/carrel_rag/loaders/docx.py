"""DOCX through python-docx: paragraphs, headings and tables in the order of the document. Reads no pictures.

Tracked changes are read as accepted, content controls as the text they hold. Does not read headers, footers, foot
notes, text boxes and the table of contents that Word makes.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import docx
from docx.oxml.ns import qn
from docx.text.paragraph import Paragraph

from carrel_rag.errors import UnreadableDocumentError
from carrel_rag.loaders.extracted import Extracted, TextBuilder
from carrel_rag.loaders.limits import MIB, Limits, check_limit
from carrel_rag.loaders.tables import render_table

_HEADING = re.compile(r"(?:heading|标题|標題|titre|überschrift)\s*(\d)", re.I)
_MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
# What stands around paragraphs, runs, rows and cells without being one. Deleted text has wrappers of its own.
_WRAPPERS = frozenset(
    qn(f"w:{name}")
    for name in ("sdt", "sdtContent", "ins", "moveTo", "smartTag", "customXml", "hyperlink", "fldSimple")
)
_GALLERY = f"{qn('w:sdtPr')}/{qn('w:docPartObj')}/{qn('w:docPartGallery')}"


def extract_docx(data: bytes, limits: Limits) -> Extracted:
    """Headings by style or outline level give the section path; each table row is one span.

    Raises:
        DocumentTooLargeError: the container unpacks to more than the limits allow (a zip bomb).
        UnreadableDocumentError: the file is damaged.
    """
    _check_container(data, limits)
    try:
        document = docx.Document(io.BytesIO(data))
    except (KeyError, ValueError, zipfile.BadZipFile, SyntaxError) as error:  # lxml's errors are SyntaxErrors
        raise UnreadableDocumentError(f"this DOCX file is damaged: {error}.") from error
    builder = TextBuilder()
    for block in _unwrapped(document.element.body):
        if block.tag == qn("w:tbl"):
            _add_table(builder, block)
        elif block.tag == qn("w:p"):
            _add_paragraph(builder, Paragraph(block, document))
    return builder.build(title=(document.core_properties.title or "").strip(), media_type=_MEDIA_TYPE)


def _check_container(data: bytes, limits: Limits) -> None:
    try:
        members = zipfile.ZipFile(io.BytesIO(data)).infolist()
    except zipfile.BadZipFile as error:
        raise UnreadableDocumentError(f"this DOCX file is damaged: {error}.") from error
    check_limit(sum(m.file_size for m in members), limits.max_unpacked_bytes, "max_unpacked_bytes", "bytes unpacked")
    for member in members:
        if member.file_size > MIB:
            ratio = member.file_size // max(1, member.compress_size)
            check_limit(ratio, limits.max_compression_ratio, "max_compression_ratio", f"zip bomb? {member.filename}")


def _unwrapped(parent: Any) -> Iterator[Any]:
    """Children in order, those inside content controls, links, fields and tracked insertions included."""
    for child in parent:
        if child.tag not in _WRAPPERS:
            yield child
        elif not _is_contents(child):
            yield from _unwrapped(child)


def _is_contents(control: Any) -> bool:
    """Whether it holds the table of contents: every heading once more, with a page number."""
    gallery = control.find(_GALLERY)
    return gallery is not None and gallery.get(qn("w:val")) == "Table of Contents"


def _add_paragraph(builder: TextBuilder, paragraph: Any) -> None:
    text = "".join(run.text for run in _unwrapped(paragraph._p) if run.tag == qn("w:r"))
    level = _heading_level(paragraph)
    if level is not None:
        builder.heading(text, level=level)
    elif _is_list_item(paragraph) and text.strip():
        builder.add(f"- {' '.join(text.split())}", "item")
    else:
        builder.add(text)


def _heading_level(paragraph: Any) -> int | None:
    """1 for the outermost heading, 0 for the title, None for text."""
    style = paragraph.style
    while style is not None:
        if (style.name or "").lower() in ("title", "标题"):
            return 0
        match = _HEADING.fullmatch((style.name or "").strip())
        if match:
            return int(match.group(1))
        outline = style.element.find(f"{qn('w:pPr')}/{qn('w:outlineLvl')}")
        if outline is not None and int(outline.get(qn("w:val"), "9")) < 9:
            return int(outline.get(qn("w:val"))) + 1
        style = style.base_style
    return None


def _is_list_item(paragraph: Any) -> bool:
    properties = paragraph._p.pPr
    return (properties is not None and properties.numPr is not None) or "List" in (paragraph.style.name or "")


def _add_table(builder: TextBuilder, table: Any) -> None:
    rows: list[list[str]] = []
    for row in _unwrapped(table):
        if row.tag == qn("w:tr"):
            rows.append(_row_cells(row, rows[-1] if rows else []))
    for line in render_table(rows, spans=True):
        builder.add(line, "row")


def _row_cells(row: Any, above: list[str]) -> list[str]:
    """The cells by grid column: a cell over many columns counts once, one over many rows is repeated in each."""
    cells: list[str] = []
    for cell in (child for child in _unwrapped(row) if child.tag == qn("w:tc")):
        column = len(cells)
        continued = cell.vMerge == "continue" and column < len(above)
        cells.append(above[column] if continued else _cell_text(cell))
        cells.extend([""] * (min(int(cell.grid_span), 64) - 1))
    return cells


def _cell_text(cell: Any) -> str:
    """All text of a cell, nested tables included, without what was moved away."""
    nodes = cell.iter(qn("w:t"), qn("w:p"), qn("w:br"), qn("w:tab"))
    kept = (node for node in nodes if next(node.iterancestors(qn("w:moveFrom")), None) is None)
    words = [(node.text or "") if node.tag == qn("w:t") else " " for node in kept]
    return " ".join("".join(words).split())
