"""What every loader gives: one text, and spans that say what each part of it is. Knows no file format.

::

    text   "Care\\n\\nWater the fern.\\n\\nName: Fern; Light: low\\nName: Moss; Light: none"
    spans   heading  paragraph          row                     row
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from carrel_rag.schema import MetadataValue

Kind = Literal["paragraph", "heading", "item", "row", "code"]
_TIGHT: frozenset[Kind] = frozenset({"item", "row"})  # neighbours of the same kind stand on adjacent lines
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # SQLite text ends at NUL; lone surrogates have no UTF-8


@dataclass(frozen=True, slots=True)
class Span:
    """``text[start:end]`` is one block of the document; spans stand in order and do not overlap."""

    start: int
    end: int
    kind: Kind
    page: int | None
    section: tuple[str, ...]  # the headings above it; a heading's own path ends with itself


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """A document's text as it will be stored, cited and counted in."""

    text: str
    spans: tuple[Span, ...]
    title: str = ""
    media_type: str = "text/plain"
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)


def clean_text(text: str) -> str:
    """``text`` without what no database can keep: NUL and lone surrogates become U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", text)


class TextBuilder:
    """Joins blocks to one text and keeps the path of headings.

    >>> builder = TextBuilder()
    >>> builder.heading("Care", level=1)
    >>> builder.add("Water the fern.")
    >>> builder.build().spans[1].section
    ('Care',)
    """

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._spans: list[Span] = []
        self._path: list[tuple[int, str]] = []

    def heading(self, text: str, *, level: int, page: int | None = None) -> None:
        """A heading; it closes the headings of its level and below."""
        text = " ".join(clean_text(text).split())
        if not text:
            return
        self._path = [(lv, name) for lv, name in self._path if lv < level] + [(level, text)]
        self._append(text, "heading", page)

    def add(self, text: str, kind: Kind = "paragraph", *, page: int | None = None) -> None:
        """A block under the present headings; blank text is dropped."""
        text = clean_text(text).strip("\n") if kind == "code" else clean_text(text).strip()
        if text.strip():
            self._append(text, kind, page)

    def build(
        self, *, title: str = "", media_type: str = "text/plain", metadata: Mapping[str, MetadataValue] | None = None
    ) -> Extracted:
        return Extracted(
            text="".join(self._parts),
            spans=tuple(self._spans),
            title=title or self._first_heading(),
            media_type=media_type,
            metadata=metadata or {},
        )

    def _first_heading(self) -> str:
        return next((span.section[-1] for span in self._spans if span.kind == "heading"), "")

    def _append(self, text: str, kind: Kind, page: int | None) -> None:
        if self._spans:
            last = self._spans[-1].kind
            self._write("\n" if kind in _TIGHT and last == kind else "\n\n")
        start = self._length
        self._write(text)
        self._spans.append(Span(start, self._length, kind, page, tuple(name for _, name in self._path)))

    def _write(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)
