"""Markdown through markdown-it: headings give the path, code blocks stay whole, pictures and badges are no text.

Knows CommonMark with tables, and the HTML inside it; does not know the dialects of documentation tools.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from bs4 import BeautifulSoup
from markdown_it import MarkdownIt
from markdown_it.token import Token

from carrel_rag.loaders.extracted import Extracted, TextBuilder
from carrel_rag.loaders.html import add_html
from carrel_rag.loaders.tables import render_table
from carrel_rag.text import join_wrapped

_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.S)
_FRONT_TITLE = re.compile(r"""^title:\s*["']?(.+?)["']?\s*$""", re.M)
_TAG = re.compile(r"<[^>]*>|<!--.*?-->", re.S)


def extract_markdown(text: str) -> Extracted:
    """The text a reader sees, block by block."""
    front = _FRONT_MATTER.match(text)
    title = ""
    if front:
        found = _FRONT_TITLE.search(front.group(1))
        title = found.group(1).strip() if found else ""
        text = text[front.end() :]
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    reader = _Reader()
    reader.read(tokens)
    return reader.builder.build(title=title, media_type="text/markdown")


class _Reader:
    """Goes through the flat list of block tokens."""

    def __init__(self) -> None:
        self.builder = TextBuilder()
        self._heading_level: int | None = None
        self._markers: list[int | None] = []  # one per open list: its next number, None for bullets
        self._pending_marker = ""
        self._rows: list[list[str]] = []
        self._in_table = False

    def read(self, tokens: Sequence[Token]) -> None:
        for token in tokens:
            handler = getattr(self, f"_on_{token.type}", None)
            if handler is not None:
                handler(token)

    def _on_heading_open(self, token: Token) -> None:
        self._heading_level = int(token.tag[1])

    def _on_heading_close(self, token: Token) -> None:
        self._heading_level = None

    def _on_inline(self, token: Token) -> None:
        text = inline_text(token.children or [])
        if self._heading_level is not None:
            self.builder.heading(text, level=self._heading_level)
        elif self._in_table:
            self._rows[-1].append(text)
        elif self._markers:
            if text:
                self.builder.add(self._pending_marker + text, "item")
                self._pending_marker = "  "  # further paragraphs of the same item
        else:
            self.builder.add(text)

    def _on_fence(self, token: Token) -> None:
        self.builder.add(token.content, "code")

    def _on_code_block(self, token: Token) -> None:
        self.builder.add(token.content, "code")

    def _on_html_block(self, token: Token) -> None:
        add_html(self.builder, BeautifulSoup(token.content, "lxml"))

    def _on_bullet_list_open(self, token: Token) -> None:
        self._markers.append(None)

    def _on_ordered_list_open(self, token: Token) -> None:
        self._markers.append(int(token.attrGet("start") or 1))

    def _on_bullet_list_close(self, token: Token) -> None:
        self._markers.pop()

    _on_ordered_list_close = _on_bullet_list_close

    def _on_list_item_open(self, token: Token) -> None:
        number = self._markers[-1]
        self._pending_marker = "- " if number is None else f"{number}. "
        if number is not None:
            self._markers[-1] = number + 1

    def _on_table_open(self, token: Token) -> None:
        self._in_table, self._rows = True, []

    def _on_tr_open(self, token: Token) -> None:
        self._rows.append([])

    def _on_table_close(self, token: Token) -> None:
        for line in render_table(self._rows):
            self.builder.add(line, "row")
        self._in_table = False


def inline_text(children: Sequence[Token]) -> str:
    """The words of an inline token: link texts stay, pictures and tags go, wrapped lines grow together."""
    lines = "".join(_pieces(children)).split("\n")
    joined = lines[0]
    for line in lines[1:]:
        joined = join_wrapped(joined, line)
    return joined.strip()


def _pieces(children: Sequence[Token]) -> Iterator[str]:
    for child in children:
        if child.type in ("text", "code_inline", "text_special"):
            yield child.content.replace("\n", " ")
        elif child.type in ("softbreak", "hardbreak"):
            yield "\n"
        elif child.type == "html_inline":
            yield "\n" if child.content.lower().startswith("<br") else _TAG.sub("", child.content)
