"""HTML through BeautifulSoup and lxml: title and main text, without scripts, styles, menus and comments.

Knows tags, not style sheets: what only CSS hides is read.
"""

from __future__ import annotations

import itertools
import re

from bs4 import BeautifulSoup
from bs4.element import NavigableString, PageElement, PreformattedString, Tag

from carrel_rag.loaders.encoding import decode_text
from carrel_rag.loaders.extracted import Extracted, TextBuilder
from carrel_rag.loaders.tables import Cell, lay_out, render_table
from carrel_rag.text import join_lines

_CHARSET = re.compile(rb"""<meta[^>]+?charset\s*=\s*["']?\s*([\w.:-]+)""", re.I)
_DROPPED = re.compile(
    "script|style|noscript|template|nav|aside|form|svg|iframe|object|canvas|button|select|head|footer|audio|video|math"
)
_DROPPED_ROLES = frozenset({"navigation", "search", "complementary", "contentinfo", "menu", "dialog", "banner"})
_DROPPED_CLASSES = frozenset({"noprint", "navbox", "toc", "catlinks", "mw-editsection", "mw-jump-link", "reference"})
_BLOCKS = frozenset(
    re.findall(
        r"\S+",
        """
    address article blockquote body center dd details div dl dt fieldset figcaption figure header h1 h2 h3 h4 h5
    h6 hr html li main ol p pre section summary table tbody td tfoot th thead tr ul
    """,
    )
)
_MIN_MAIN_CHARACTERS = 200


def extract_html(data: bytes) -> Extracted:
    """Headings give the section path, list items and table rows stay whole."""
    match = _CHARSET.search(data[:4096])
    declared = match.group(1).decode("ascii", "replace") if match else None
    soup = BeautifulSoup(decode_text(data, declared=declared), "lxml")
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    builder = TextBuilder()
    add_html(builder, soup)
    return builder.build(title=title, media_type="text/html")


def add_html(builder: TextBuilder, soup: BeautifulSoup) -> None:
    """Adds the main text of a parsed page, or of a fragment, to ``builder``. Removes the rest from ``soup``."""
    _remove_furniture(soup)
    _Walker(builder).walk(_main_part(soup))


def _remove_furniture(soup: BeautifulSoup) -> None:
    for tag in soup.find_all(lambda tag: _DROPPED.fullmatch(tag.name) is not None):
        if not tag.decomposed:
            tag.decompose()
    for tag in soup.find_all(_is_furniture):
        if not tag.decomposed:
            tag.decompose()


def _is_furniture(tag: Tag) -> bool:
    if tag.has_attr("hidden") or str(tag.get("role", "")) in _DROPPED_ROLES:
        return True
    if tag.name in ("ul", "ol") and tag.find_parent("header"):
        return True  # menus and lists of languages beside the page's title
    classes = tag.get_attribute_list("class")
    return any(name in _DROPPED_CLASSES for name in classes if name)


def _main_part(soup: BeautifulSoup) -> Tag:
    articles = soup.find_all("article")
    candidates = [
        soup.find("main"),
        soup.find(True, attrs={"role": "main"}),
        articles[0] if len(articles) == 1 else None,
    ]
    whole = soup  # not its body: broken pages have text behind it
    enough = min(_MIN_MAIN_CHARACTERS, len(whole.get_text(strip=True)) // 3)
    for part in candidates:
        if isinstance(part, Tag) and len(part.get_text(strip=True)) >= enough:
            return part
    return whole


def _cell(tag: Tag) -> Cell:
    return Cell(tag.get_text(" ", strip=True), rowspan=_span(tag, "rowspan"), colspan=_span(tag, "colspan"))


def _span(tag: Tag, name: str) -> int:
    number = re.match(r"\s*([0-9]{1,6})", str(tag.get(name, "")))
    return int(number.group(1)) if number else 1


class _Walker:
    """Walks the tree, gathers inline text, and hands on a block whenever one ends."""

    def __init__(self, builder: TextBuilder) -> None:
        self._builder = builder
        self._inline: list[str] = []
        self._in_item = 0

    def walk(self, part: Tag) -> None:
        self._children(part)
        self._flush()

    def _children(self, tag: Tag) -> None:
        for child in tag.children:
            self._visit(child)

    def _visit(self, node: PageElement) -> None:
        if isinstance(node, Tag):
            if node.name in _BLOCKS:
                self._block(node)
            elif node.name == "br":
                self._inline.append("\n")
            else:
                self._children(node)
        elif isinstance(node, NavigableString) and not isinstance(node, PreformattedString):
            self._inline.append(re.sub(r"\s+", " ", str(node)))  # comments and CDATA are PreformattedStrings

    def _block(self, tag: Tag) -> None:
        self._flush()
        if re.fullmatch("h[1-6]", tag.name):
            self._builder.heading(tag.get_text(" ", strip=True), level=int(tag.name[1]))
        elif tag.name == "table" and not tag.find("table"):
            self._table(tag)
        elif tag.name == "pre":
            self._builder.add(tag.get_text(), "code")
        elif tag.name in ("li", "dd"):
            self._in_item += 1
            self._children(tag)
            self._flush()
            self._in_item -= 1
        else:
            self._children(tag)
            self._flush()

    def _table(self, tag: Tag) -> None:
        caption = tag.find("caption")
        if caption is not None:
            self._builder.add(caption.get_text(" ", strip=True))
        rows: list[list[str]] = []
        for _, part in itertools.groupby(tag.find_all("tr"), key=lambda row: id(row.parent)):  # spans end with thead
            rows += lay_out([[_cell(cell) for cell in row.find_all(["td", "th"])] for row in part])
        for line in render_table(rows, spans=True):
            self._builder.add(line, "row")

    def _flush(self) -> None:
        text = join_lines("".join(self._inline).split("\n"), separator="\n")
        self._inline.clear()
        if not text:
            return
        if self._in_item:
            self._builder.add(f"- {text}", "item")
        else:
            self._builder.add(text)
