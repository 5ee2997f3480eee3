"""What was said in ``carrel chat``, and the commands that change it. Knows messages; knows no model and no terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HELP = """\
/help            this list
/clear           forget the conversation; the system message stays
/system [TEXT]   show the system message, or set it
/save FILE       write the conversation to FILE, as JSON
/exit            leave; so does Ctrl-D
Ctrl-C stops an answer. Lines between two lines of \"\"\" are one message; // at the beginning sends a /."""


class Leave(Exception):
    """The person wants to go."""


@dataclass
class Conversation:
    """Messages in OpenAI's form."""

    system: str | None = None
    turns: list[dict[str, Any]] = field(default_factory=list)

    @property
    def messages(self) -> list[dict[str, Any]]:
        head = [{"role": "system", "content": self.system}] if self.system else []
        return [*head, *self.turns]

    def ask(self, text: str) -> None:
        self.turns.append({"role": "user", "content": text})

    def answered(self, text: str) -> None:
        """The answer, also one that was stopped. Nothing at all takes the question back."""
        if text:
            self.turns.append({"role": "assistant", "content": text})
        else:
            self.take_back()

    def take_back(self) -> None:
        """The last question was refused."""
        self.turns.pop()

    def command(self, line: str) -> str:
        """Do what a line such as ``/clear`` says; what to tell.

        >>> Conversation(system="简短").command("/system")
        '简短'

        Raises:
            Leave: by ``/exit``.
        """
        name, _, argument = line.partition(" ")
        commands: Mapping[str, Callable[[str], str]] = {
            "/help": lambda _: HELP,
            "/?": lambda _: HELP,
            "/clear": self._clear,
            "/system": self._system,
            "/save": self._save,
            "/exit": _leave,
            "/quit": _leave,
            "/bye": _leave,
        }
        action = commands.get(name)
        return f"There is no command {name}; /help lists them." if action is None else action(argument.strip())

    def _clear(self, _: str) -> str:
        self.turns.clear()
        return "The conversation is forgotten."

    def _system(self, text: str) -> str:
        if not text:
            return self.system or "There is no system message."
        self.system = text
        return "The system message is set."

    def _save(self, name: str) -> str:
        if not name:
            return "Say where: /save FILE."
        text = json.dumps({"messages": self.messages}, ensure_ascii=False, indent=2)
        try:
            Path(name).expanduser().write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            return f"{name} cannot be written: {error.strerror}."
        return f"Saved in {name}."


def _leave(_: str) -> str:
    raise Leave
