"""What ``carrel doctor`` found: facts, warnings and problems in sections, as a page of text or as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import click

Level = Literal["fact", "warning", "problem"]
WIDTH, LABEL = 80, 13
MARKS: dict[Level, str] = {"fact": "  ", "warning": "! ", "problem": "x "}
COLOURS: dict[Level, str | None] = {"fact": None, "warning": "yellow", "problem": "red"}


@dataclass(frozen=True)
class Finding:
    """One line: ``text`` is for people, ``value`` the same for programs (None: ``text`` says it all)."""

    name: str
    text: str
    value: Any = None
    level: Level = "fact"


@dataclass
class Section:
    title: str
    findings: list[Finding] = field(default_factory=list)

    def fact(self, name: str, text: str, value: Any = None) -> None:
        self.findings.append(Finding(name, text, value))

    def warn(self, name: str, text: str, value: Any = None) -> None:
        self.findings.append(Finding(name, text, value, "warning"))

    def problem(self, name: str, text: str, value: Any = None) -> None:
        self.findings.append(Finding(name, text, value, "problem"))

    def as_dict(self) -> dict[str, Any]:
        """Values by name; texts of what is wrong stand apart."""
        facts = {item.name: item.text if item.value is None else item.value for item in self.findings}
        return {"name": self.title, **facts, "problems": self.texts("problem"), "warnings": self.texts("warning")}

    def texts(self, level: Level) -> list[str]:
        return [item.text for item in self.findings if item.level == level]


def page(sections: Sequence[Section]) -> Iterator[str]:
    """Lines of at most 80 columns."""
    for section in sections:
        yield from textwrap.wrap(section.title, WIDTH, break_on_hyphens=False)
        for item in section.findings:
            for line in _lines(item):
                yield click.style(line, fg=COLOURS[item.level]) if COLOURS[item.level] else line
        yield ""


def _lines(item: Finding) -> list[str]:
    first = f"{MARKS[item.level]}{item.name:<{LABEL}}"
    indent = " " * (LABEL + 2)
    wrapped = textwrap.wrap(item.text, WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)
    return wrapped or [first]


def count_of(number: int, noun: str) -> str:
    """
    >>> count_of(1, "problem"), count_of(2, "problem")
    ('1 problem', '2 problems')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
