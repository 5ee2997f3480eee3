"""The terminal of ``carrel chat``: reads what a person types, or lines of a pipe, and shows answers as they come.

Lines are edited by Python's own ``readline`` where it is there: it knows wide characters and history, and needs no
package. Pasted line breaks and lines between ``\"\"\"`` make one message.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from contextlib import suppress

import click

FENCE = '"""'


class Screen:
    """Standard input and output. ``people``: somebody types; else every line of a pipe is a message."""

    def __init__(self) -> None:
        self.people = sys.stdin.isatty()
        self._dim = False
        if self.people:
            self._edit_lines()

    def _edit_lines(self) -> None:
        with suppress(ImportError):  # on Windows the console edits lines by itself
            importlib.import_module("readline")  # from now on input() edits

    def question(self) -> str | None:
        """What is asked next; None when the input has ended.

        Raises:
            KeyboardInterrupt: Ctrl-C, which drops the line.
        """
        text = "\n"
        while not text.strip():
            try:
                text = self._typed() if self.people else sys.stdin.readline()
            except EOFError:
                click.echo()
                return None
            if not text and not self.people:
                return None
        return text.strip()

    def _typed(self) -> str:
        line = input(">>> ")
        if not line.strip().startswith(FENCE):
            return line
        lines = [line.strip()]
        while not is_closed(lines):
            lines.append(input("... "))
        return unfenced(lines)

    def say(self, text: str) -> None:
        """Something of the program's own, for people."""
        if self.people:
            click.echo(text)

    def show(self, text: str, *, dim: bool = False) -> None:
        """A piece of an answer; ``dim`` are thoughts. A change from one to the other begins a new line."""
        if not text:
            return
        if self._dim and not dim:
            click.echo("\n")
        self._dim = dim
        click.echo(click.style(text, dim=True) if dim else text, nl=False)

    def end(self) -> None:
        """The answer has ended."""
        self._dim = False
        click.echo()


def is_closed(lines: Sequence[str]) -> bool:
    """Whether the fence that opens the first line is closed by the end of the last one."""
    last = lines[-1].rstrip()
    return last.endswith(FENCE) and (len(lines) > 1 or len(last) >= 2 * len(FENCE))


def unfenced(lines: Sequence[str]) -> str:
    """
    >>> unfenced([FENCE + "第一行", "第二行" + FENCE])
    '第一行\\n第二行'
    """
    return "\n".join(lines).strip().removeprefix(FENCE).removesuffix(FENCE)
