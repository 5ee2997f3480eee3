"""Rows of a table as lines that stand alone: each value with the name of its column. Knows no file format."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_NUMBER = re.compile(r"[-+]?[\d.,]+\s*[%€$¥£]?")
_YEAR = re.compile(r"(?:19|20)[0-9]{2}")
_MAX_SPAN = 1000  # as browsers have it for columns
_MIN_ROOM, _ROOM_PER_CHARACTER = 1000, 64  # how much spans may add to a table: nobody vouches for a document
Row = Sequence[str]


class Cell(NamedTuple):
    """A cell as a page writes it: once, whatever its place in the grid."""

    text: str
    rowspan: int = 1
    colspan: int = 1


def lay_out(rows: Sequence[Sequence[Cell]]) -> list[list[str]]:
    """Cells by grid column: one over many columns counts once, one over many rows is repeated in each.

    >>> lay_out([[Cell("Jade", rowspan=2), Cell("first")], [Cell("second")]])
    [['Jade', 'first'], ['Jade', 'second']]
    """
    grid: list[list[str]] = []
    placed: dict[int, tuple[str, int]] = {}  # by column: a text, and the last row that it stands in
    room = _MIN_ROOM + _ROOM_PER_CHARACTER * sum(len(cell.text) + 1 for row in rows for cell in row)
    for index, row in enumerate(rows):
        placed = {column: entry for column, entry in placed.items() if entry[1] >= index}
        column = 0
        for cell in row:
            while column in placed:
                column += 1
            fitted = _fit(cell, len(rows) - index, room)
            room -= _added(fitted)
            for offset in range(fitted.colspan):
                placed.setdefault(column + offset, ("" if offset else fitted.text, index + fitted.rowspan - 1))
            column += fitted.colspan
        if row:
            grid.append([placed.get(at, ("", 0))[0] for at in range(max(placed) + 1)])
    return grid


def _fit(cell: Cell, num_rows: int, room: int) -> Cell:
    """The cell with spans that its table has rows for, or without any where they would add too much."""
    rowspan, colspan = (max(1, min(span, _MAX_SPAN)) for span in (cell.rowspan, cell.colspan))
    fitted = Cell(cell.text, min(rowspan, num_rows), colspan)
    return fitted if _added(fitted) <= room else Cell(cell.text)


def _added(cell: Cell) -> int:
    """Cells and characters that its spans put into the grid."""
    return cell.rowspan * cell.colspan - 1 + (cell.rowspan - 1) * len(cell.text)


def is_header(first: Row, others: Sequence[Row]) -> bool:
    """Whether the first row names columns: full, distinct, and no number unless numbers stand nowhere below.

    Neighbours may have the same name: a cell that spans two columns. The first name may be missing: its column names
    the rows. Years are names where no years stand below them.
    """
    cells = [cell.strip() for cell in first]
    names = [cell for cell, _ in itertools.groupby(cells[1:] if cells and not cells[0] else cells)]
    if len(names) < 2 or not others or not all(names) or len(set(names)) != len(names):
        return False
    numbers = [column for column, cell in enumerate(cells) if _NUMBER.fullmatch(cell)]
    if not numbers or _are_years(numbers, cells, others):
        return True
    return not any(_NUMBER.fullmatch(cell.strip()) for row in others for cell in row)


def _are_years(columns: Sequence[int], first: Row, others: Sequence[Row]) -> bool:
    """Whether these columns begin with years, and go on without. One alone may be a price or a count."""
    below = (row[column].strip() for row in others for column in columns if column < len(row))
    return (
        len(columns) > 1
        and all(_YEAR.fullmatch(first[column]) for column in columns)
        and not any(_YEAR.fullmatch(cell) for cell in below)
    )


def render_row(header: Row | None, row: Row) -> str:
    """One row on one line; empty cells are left out, values beyond the header are kept as ``column 5: …``.

    >>> render_row(["Food", "Calories"], ["Leaves", "50"])
    'Food: Leaves; Calories: 50'
    """
    cells = [" ".join(cell.split()) for cell in row]
    if header is None:
        return " | ".join(cell for cell in cells if cell)
    names = [" ".join(name.split()) for name in header] + [f"column {i + 1}" for i in range(len(header), len(cells))]
    return "; ".join(f"{name}: {cell}" if name else cell for name, cell in zip(names, cells, strict=False) if cell)


def render_table(rows: Sequence[Row], *, spans: bool = False) -> Iterator[str]:
    """The rows of a table as lines, blank ones left out. A table that is only a header is kept as it is.

    With ``spans`` an empty cell of the header belongs to its left neighbour: a name over many columns names them all.
    """
    full = [row for row in rows if any(cell.strip() for cell in row)]
    if not full:
        return
    names = _fill(full[0]) if spans else full[0]
    header = names if is_header(names, full[1:20]) else None
    for row in full[1:] if header is not None else full:
        yield render_row(header, row)


def _fill(row: Row) -> Row:
    names = [""]
    for cell in row:
        names.append(cell or names[-1])
    return names[1:]
