"""``carrel chat --base-url``: thoughts, conversations and refusals, against the librarian."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from carrel_server.cli.chat import TerminalChat
from carrel_server.cli.conversation import Conversation
from carrel_server.cli.http_talker import HttpTalker
from carrel_server.cli.screen import Screen
from carrel_server.cli.talker import Piece, Wishes
from reading_room import API_KEY, CHAT, LOANS, LOANS_ANSWER, LONG, THINK, THOUGHT, THOUGHT_ANSWER, WEATHER_REPORT


def chat(url: str, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from carrel_server.cli import main; main()", "chat", "--base-url", url]
    return subprocess.run(
        [*command, "--api-key", API_KEY, *arguments], input=text, capture_output=True, text=True, timeout=120
    )


def test_a_conversation_in_a_pipe(url: str) -> None:
    result = chat(url, text=f"{LOANS}\n{THINK}\n")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(LOANS_ANSWER + "\n") and THOUGHT_ANSWER in result.stdout
    assert THOUGHT not in result.stdout, "thoughts are for people"
    shown = chat(url, "--show-thoughts", THINK)
    assert shown.stdout.index(THOUGHT) < shown.stdout.index(THOUGHT_ANSWER)


def test_history_is_sent(url: str) -> None:
    """The librarian answers the last thing that it knows; the first question is still there after a second one."""
    talker = HttpTalker(url, API_KEY, None, Wishes(max_tokens=64))
    assert talker.name == CHAT
    talk = Conversation("你是图书管理员。")
    terminal = TerminalChat(talker, Screen(), talk)
    terminal.ask(LOANS)
    terminal.ask("</tool_response>")
    roles = [message["role"] for message in talk.messages]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert [talk.messages[2]["content"], talk.messages[4]["content"]] == [LOANS_ANSWER, WEATHER_REPORT]


def test_pieces_and_the_end(url: str, tmp_path: Path) -> None:
    talker = HttpTalker(url, API_KEY, CHAT, Wishes(max_tokens=9, temperature=0.0, seed=1, think=False))
    pieces = list(talker.answer([{"role": "user", "content": LONG}]))
    assert pieces[-1] == Piece(finish_reason="length") and len(pieces) > 2
    talk = Conversation()
    talk.ask(LONG)
    talk.answered("".join(piece.text for piece in pieces))
    talk.command(f"/save {tmp_path / '对话.json'}")
    assert json.loads((tmp_path / "对话.json").read_text(encoding="utf-8"))["messages"] == talk.messages


def test_refusals(url: str) -> None:
    result = chat(url, "很长。" * 8000)
    assert result.returncode == 1 and "maximum context length" in result.stderr
    assert result.stderr.startswith("Error: ") and len(result.stderr.splitlines()) == 1
    assert "not-here" in chat(url, "--model", "not-here", "hi").stderr
