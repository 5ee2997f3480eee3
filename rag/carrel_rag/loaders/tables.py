"""Rows of a table as lines that stand alone: each value with the name of its column. Knows no file format."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

_NUMBER = re.compile(r"[-+]?[\d.,]+\s*[%€$¥£]?")
Row = Sequence[str]


def is_header(first: Row, others: Sequence[Row]) -> bool:
    """Whether the first row names columns: full, distinct, and no number unless numbers stand nowhere below.

    Neighbours may have the same name: a cell that spans two columns. The first name may be missing: its column names
    the rows.
    """
    cells = [cell.strip() for cell in first]
    names = [cell for cell, _ in itertools.groupby(cells[1:] if cells and not cells[0] else cells)]
    if len(names) < 2 or not others or not all(names) or len(set(names)) != len(names):
        return False
    if not any(_NUMBER.fullmatch(cell) for cell in cells):
        return True
    return not any(_NUMBER.fullmatch(cell.strip()) for row in others for cell in row)


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


def render_table(rows: Sequence[Row]) -> Iterator[str]:
    """The rows of a table as lines, blank ones left out. A table that is only a header is kept as it is."""
    full = [row for row in rows if any(cell.strip() for cell in row)]
    if not full:
        return
    header = full[0] if is_header(full[0], full[1:20]) else None
    for row in full[1:] if header is not None else full:
        yield render_row(header, row)
