"""Characters with boxes to paragraphs in reading order. Pure geometry: knows no PDF library.

The stream of a PDF says what to draw, not what to read: a right column may be drawn first, a running head stands
between two halves of a sentence, a figure's labels cut a paragraph. So lines are grouped to blocks that were drawn
together and stand under each other, blocks are ordered by column, and a sentence that stops in the middle looks for its
other half. Coordinates are PDF points, y grows upwards.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from carrel_rag.loaders.tables import render_table
from carrel_rag.text import is_cjk, join_wrapped

_BULLET = re.compile(r"\s*(?:[•◦▪■●○‣–—*·-]\s|\(?\d{1,2}[.)、]\s?|第[一二三四五六七八九十百\d]+[条章节款])")
_TERMINATOR = re.compile(r"[.!?:;。！？：；…][\"'”’」』）)\]]*\s*$")
_MARGIN = 0.12  # heads and feet stand in this share of the page at its top and bottom


class Glyph(NamedTuple):
    char: str
    left: float
    bottom: float
    right: float
    top: float
    font: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A run of text on one base line. ``cells`` are its parts between wide gaps: more than one means a table row."""

    cells: tuple[str, ...]
    left: float
    bottom: float
    right: float
    top: float
    size: float  # height of its characters
    page_height: float
    font: str = ""  # of its first and its last character, if they have the same

    @property
    def text(self) -> str:
        return " ".join(self.cells)

    @property
    def in_margin(self) -> bool:
        middle = (self.top + self.bottom) / 2
        return middle > (1 - _MARGIN) * self.page_height or middle < _MARGIN * self.page_height


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str
    size: float
    kind: Literal["paragraph", "row", "item"]
    font: str = ""


@dataclass(slots=True)
class _Block:
    """Lines drawn one after another that stand under each other."""

    lines: list[Line]
    text: str = field(default="")

    @property
    def left(self) -> float:
        return min(line.left for line in self.lines)

    @property
    def right(self) -> float:
        return max(line.right for line in self.lines)

    @property
    def top(self) -> float:
        return max(line.top for line in self.lines)

    @property
    def bottom(self) -> float:
        return min(line.bottom for line in self.lines)

    @property
    def size(self) -> float:
        return self.lines[0].size


def make_lines(glyphs: Iterable[Glyph], *, page_size: tuple[float, float]) -> list[Line]:
    """Lines in the order of the stream; a gap far wider than a blank parts a line into cells."""
    lines: list[Line] = []
    current: list[Glyph] = []
    for glyph in [*glyphs, Glyph("\n", 0, 0, 0, 0)]:
        hyphenated = glyph.char in "\x02\ufffe"  # PDFium's sign for a hyphen at the end of a line
        if hyphenated:
            current.append(glyph._replace(char="-"))
        if hyphenated or glyph.char in "\r\n\u2028":
            line = _make_line(current, page_size[1])
            if line is not None:
                lines.append(line)
            current = []
        else:
            current.append(glyph)
    return lines


def _make_line(glyphs: Sequence[Glyph], page_height: float) -> Line | None:
    inked = [g for g in glyphs if not g.char.isspace() and g.char.isprintable()]
    if not inked:
        return None
    heights = sorted(g.top - g.bottom for g in inked)
    size = heights[len(heights) // 2]
    cells = _cells(glyphs, 1.6 * size)
    if not cells:
        return None
    return Line(
        tuple(cells),
        min(g.left for g in inked),
        min(g.bottom for g in inked),
        max(g.right for g in inked),
        max(g.top for g in inked),
        size,
        page_height,
        inked[0].font if inked[0].font == inked[-1].font else "",
    )


def _cells(glyphs: Sequence[Glyph], wide: float) -> list[str]:
    cells: list[str] = []
    current: list[str] = []
    previous: Glyph | None = None
    for glyph in glyphs:
        if glyph.char.isspace():
            current.append(" ")
            continue
        if previous is not None and glyph.left - previous.right > wide:
            cells.append("".join(current))
            current = []
        if glyph.char.isprintable():
            current.append(glyph.char)
        previous = glyph
    cells.append("".join(current))
    return [" ".join(cell.split()) for cell in cells if cell.strip()]


def page_furniture(pages: Sequence[Sequence[Line]]) -> set[Line]:
    """Heads and feet: lines in the margin that come back on another page, their numbers apart."""
    seen: dict[str, set[int]] = defaultdict(set)
    marginal = [
        (number, line)
        for number, page in enumerate(pages)
        for line in page
        if line.in_margin and not _is_row_of_numbers(line.text)
    ]
    for number, line in marginal:
        seen[_without_numbers(line.text)].add(number)
    enough = max(2, len(pages) // 4)
    return {line for _, line in marginal if len(seen[_without_numbers(line.text)]) >= enough}


def _is_row_of_numbers(text: str) -> bool:
    """``01/10/2024 5,101.00`` belongs to a table; ``- 3 -`` and ``3 / 12`` are page numbers."""
    return not any(char.isalpha() for char in text) and len(re.findall(r"\d+", text)) > 2


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+", "#", text)


def make_paragraphs(lines: Sequence[Line]) -> list[Paragraph]:
    """Paragraphs and table rows of one page, in reading order."""
    blocks = _order(_group(lines))
    for block in blocks:
        block.text = _join([line.text for line in block.lines])
    blocks = _rejoin(blocks)
    paragraphs: list[Paragraph] = []
    index = 0
    while index < len(blocks):
        rows = _table_at(blocks, index)
        if len(rows) >= 2:
            paragraphs.extend(Paragraph(text, blocks[index].size, "row") for text in render_table(rows))
            index += len(rows)
        else:
            kind: Literal["item", "paragraph"] = "item" if re.match(r"\s*[•◦▪●○‣]", blocks[index].text) else "paragraph"
            font = blocks[index].lines[0].font
            paragraphs.append(Paragraph(blocks[index].text, blocks[index].size, kind, font))
            index += 1
    return paragraphs


def _table_at(blocks: Sequence[_Block], index: int) -> list[tuple[str, ...]]:
    """The rows of the table that begins at ``index``: lines with the same number of cells, three or more."""
    rows: list[tuple[str, ...]] = []
    for block in blocks[index:]:
        cells = block.lines[0].cells
        if len(block.lines) != 1 or len(cells) < 3 or (rows and len(cells) != len(rows[0])):
            break
        rows.append(cells)
    return rows


def _group(lines: Sequence[Line]) -> list[_Block]:
    blocks: list[_Block] = []
    for line in lines:
        if blocks and _follows(blocks[-1].lines[-1], line, blocks[-1]):
            blocks[-1].lines.append(line)
        else:
            blocks.append(_Block([line]))
    return blocks


def _follows(above: Line, line: Line, block: _Block) -> bool:
    """Whether ``line`` goes on with the paragraph that ``above`` belongs to."""
    if len(line.cells) >= 3 or len(above.cells) >= 3 or _BULLET.match(line.text):
        return False
    if abs(line.size - above.size) > 0.12 * above.size:
        return False
    if line.font and above.font and line.font != above.font:
        return False
    if abs(line.bottom - above.bottom) < 0.3 * above.size:  # the same base line: the rest of a line
        return True
    gap = above.bottom - line.top
    if not -0.6 * above.size < gap < 0.6 * above.size:
        return False
    if min(line.right, block.right) - max(line.left, block.left) <= 0:
        return False
    # A line that ends early with a full stop ends its paragraph.
    return not (_TERMINATOR.search(above.text) and above.right < block.right - 4 * above.size)


def _order(blocks: list[_Block]) -> list[_Block]:
    """Reading order: columns from left to right between the blocks that stand across them."""
    gutter = _find_gutter(blocks)
    if gutter is None:
        return _top_down(blocks)
    ordered: list[_Block] = []
    left: list[_Block] = []
    right: list[_Block] = []
    for block in sorted(blocks, key=lambda b: -b.top):
        if block.left < gutter - 1 and block.right > gutter + 1:
            ordered += [*_top_down(left), *_top_down(right), block]
            left, right = [], []
        else:
            (left if block.right <= gutter + 1 else right).append(block)
    return [*ordered, *_top_down(left), *_top_down(right)]


def _top_down(blocks: list[_Block]) -> list[_Block]:
    return sorted(blocks, key=lambda block: (-round(block.top, 1), block.left))


def _find_gutter(blocks: Sequence[_Block]) -> float | None:
    """The x between two columns, or None. Most lines must keep to one side, and both sides must hold running text."""
    lines = [line for block in blocks for line in block.lines]
    if len(lines) < 4:
        return None
    left, right = min(line.left for line in lines), max(line.right for line in lines)
    best: tuple[int, float] | None = None
    steps = [left + (right - left) * share / 100 for share in range(25, 76)]
    for x in steps:
        crossing = sum(line.left < x - 1 and line.right > x + 1 for line in lines)
        if crossing * 4 <= len(lines) and _both_sides(lines, x, 0.2 * (right - left)):
            candidate = (crossing, abs(x - (left + right) / 2))
            if best is None or candidate < best:
                best, chosen = candidate, x
    return chosen if best is not None else None


def _both_sides(lines: Sequence[Line], x: float, min_width: float) -> bool:
    sides = [[line for line in lines if line.right <= x + 1], [line for line in lines if line.left >= x - 1]]
    if any(sum(line.right - line.left >= min_width for line in side) < 2 for side in sides):
        return False
    tops = [max(line.top for line in side) for side in sides]
    bottoms = [min(line.bottom for line in side) for side in sides]
    return min(tops) > max(bottoms)  # they stand beside each other


def _join(lines: Sequence[str]) -> str:
    text = ""
    for line in lines:
        text = join_wrapped(text, line)
    return text


def _rejoin(blocks: list[_Block]) -> list[_Block]:
    """Joins a block that stops in the middle of a sentence with the next one of its size that goes on with it."""
    result: list[_Block] = []
    waiting = list(blocks)
    while waiting:
        block = waiting.pop(0)
        while (index := _continuation(block, waiting)) is not None:
            more = waiting.pop(index)
            block.lines = [*block.lines, *more.lines]
            block.text = join_wrapped(block.text, more.text)
        result.append(block)
    return result


def _continuation(block: _Block, others: Sequence[_Block]) -> int | None:
    if _TERMINATOR.search(block.text) or len(block.lines[-1].cells) >= 3 or len(block.text) < 30:
        return None
    for index, other in enumerate(others[:8]):
        if abs(other.size - block.size) > 0.05 * block.size or len(other.lines[0].cells) >= 3:
            continue
        first = other.text[:1]
        if _BULLET.match(other.text):
            return None
        return index if first.islower() or (is_cjk(first) and is_cjk(block.text[-1]) and len(block.lines) > 1) else None
    return None
