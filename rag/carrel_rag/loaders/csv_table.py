"""CSV: one row, one line of ``name: value`` pairs. Finds the separator and the header; knows no types."""

from __future__ import annotations

import csv
import io
from collections import Counter

from carrel_rag.errors import UnreadableDocumentError
from carrel_rag.loaders.extracted import Extracted, TextBuilder
from carrel_rag.loaders.tables import render_table

_DELIMITERS = (",", ";", "\t", "|")
_SAMPLE_CHARACTERS = 1 << 16


def extract_csv(text: str) -> Extracted:
    """One span of kind ``row`` per record; a line break inside a cell becomes a blank.

    Raises:
        UnreadableDocumentError: the file cannot be read as a table.
    """
    builder = TextBuilder()
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=find_delimiter(text)))
    except csv.Error as error:
        raise UnreadableDocumentError(f"this cannot be read as a CSV table: {error}.") from error
    for line in render_table(rows):
        builder.add(line, "row")
    return builder.build(media_type="text/csv")


def find_delimiter(text: str) -> str:
    """The separator that gives most rows the same number of columns, and more than one of them.

    >>> find_delimiter("name;price\\nquay;1.250,00\\n")
    ';'
    """
    sample = text[:_SAMPLE_CHARACTERS]
    return max(_DELIMITERS, key=lambda delimiter: _regularity(sample, delimiter))


def _regularity(sample: str, delimiter: str) -> tuple[float, int]:
    try:
        widths = [len(row) for row in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter) if row]
    except csv.Error:
        return (0.0, 0)
    if not widths:
        return (0.0, 0)
    width, count = Counter(widths).most_common(1)[0]
    return (count / len(widths), width) if width > 1 else (0.0, width)
