"""``carrel chat``: in a pipe, in a real terminal, in this process and over HTTP."""

from __future__ import annotations

import codecs
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from carrel_server.cli import main
from carrel_server.cli.chat import split_words
from carrel_server.cli.conversation import Conversation, Leave

CARREL = [sys.executable, "-c", "from carrel_server.cli import main; main()"]
SHORT = ["--max-tokens", "5", "--temperature", "0"]


def piped(*arguments: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CARREL, "chat", *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


class Terminal:
    """A command in a terminal of its own, as a person has it."""

    def __init__(self, arguments: list[str]) -> None:
        self.process_id, self._file = pty.fork()
        if self.process_id == 0:
            os.environ["TERM"] = "xterm"
            os.execv(CARREL[0], [*CARREL, "chat", *arguments])
        self.seen = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # the terminal echoes byte by byte

    def write(self, text: str) -> None:
        os.write(self._file, text.encode())

    def wait_for(self, text: str, seconds: float = 60.0) -> str:
        """What is shown until ``text`` comes; it is not shown again."""
        assert self._shows(text, seconds), f"no {text!r} in {self.seen!r}"
        before, _, self.seen = self.seen.partition(text)
        return before

    def _shows(self, text: str, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self._file], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return False
            self.seen += self._decoder.decode(os.read(self._file, 4096))
        return True

    def interrupt_until(self, text: str) -> None:
        """Ctrl-C, again each second until ``text`` comes, as a person presses it.

        CPython loses sight of one that comes after the prompt is written and before it waits for input, until a key
        is pressed.
        """
        for _ in range(60):
            self.write("\x03")
            if self._shows(text, seconds=1.0):
                return
        raise AssertionError(f"no {text!r} in {self.seen!r}")

    def status(self) -> int:
        """The exit status, once it has ended."""
        while True:
            try:
                if not os.read(self._file, 4096):
                    break
            except OSError:  # Linux: the other side is closed
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.process_id, 0)[1])

    def close(self) -> None:
        try:
            os.kill(self.process_id, signal.SIGKILL)
            os.waitpid(self.process_id, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self._file)


@contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    opened = Terminal(list(arguments))
    try:
        yield opened
    finally:
        opened.close()


def test_lines_of_a_pipe_are_questions() -> None:
    one = piped("你好", *SHORT)
    assert one.returncode == 0 and one.stdout.strip() and "\x1b" not in one.stdout
    two = piped(*SHORT, text="你好\n\n/help\n")
    assert two.returncode == 0 and ">>>" not in two.stdout
    assert two.stdout.startswith(one.stdout), "the same first turn"
    assert "/clear" not in two.stdout, "a pipe gives no commands"
    assert two.stderr == one.stderr == ""


def test_over_http(url: str) -> None:
    answer = piped("--base-url", url, *SHORT, "你好")
    assert answer.returncode == 0 and answer.stdout.strip()
    plain = url.removeprefix("http://") + "/v1"
    assert piped("--base-url", plain, "--model", "alias/chat", *SHORT, text="你好\n").stdout == answer.stdout


def test_a_key_comes_from_the_environment(key_url: str) -> None:
    assert piped("--base-url", key_url, "hi", *SHORT, CARREL_API_KEY="first-key").returncode == 0
    refused = piped("--base-url", key_url, "hi", *SHORT, CARREL_API_KEY="", VLLM_API_KEY="")
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: ") and "API key" in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (["--base-url", "http://127.0.0.1:9", "hi"], 1, "Nobody answers"),
        (["--base-url", "ftp://x", "hi"], 1, "no URL"),
        (["no-such/model", "hi"], 1, "no-such/model"),
        (["Who", "are", "you?"], 2, "quotes"),
        (["--api-key", "x", "hi"], 2, "--base-url"),
        (["--max-tokens", "0", "hi"], 2, "--max-tokens"),
        (["hi", "--temperature", "-1"], 1, "temperature"),
    ],
)
def test_errors_are_one_sentence(
    arguments: list[str], status: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["chat", *arguments])
    result = capsys.readouterr()
    assert end.value.code == status and result.out == ""
    assert word in result.err and "Traceback" not in result.err


def test_in_a_terminal(tmp_path: Path) -> None:
    saved = tmp_path / "gespräch.json"
    with terminal(*SHORT, "--system", "简短") as screen:
        assert "starter/reader" in screen.wait_for(">>> ")
        screen.write("/help\n")
        assert "/save" in screen.wait_for(">>> ")
        screen.write("/nothing\n")
        assert "There is no command" in screen.wait_for(">>> ")
        screen.write('"""\n第一行\n第二行"""\n')
        screen.wait_for(">>> ")
        screen.write(f"/save {saved}\n")
        screen.wait_for("Saved in")
        system, question, answer = json.loads(saved.read_text(encoding="utf-8"))["messages"]
        assert system == {"role": "system", "content": "简短"}
        assert question == {"role": "user", "content": "第一行\n第二行"}
        assert answer["role"] == "assistant" and answer["content"]
        screen.wait_for(">>> ")
        screen.write("/clear\n/system\n")
        assert "forgotten" in screen.wait_for("简短")
        screen.wait_for(">>> ")
        screen.interrupt_until("Ctrl-D or /exit leaves")
        screen.wait_for(">>> ")
        screen.write("\x04")
        assert screen.status() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program() -> None:
    with terminal("--max-tokens", "400", "--temperature", "3", "--seed", "1") as screen:
        screen.wait_for(">>> ")
        screen.write("你好\n")
        screen.wait_for("你好\r\n")
        screen.write("\x03")
        screen.wait_for(">>> ")
        screen.write("/exit\n")
        assert screen.status() == 0


def test_a_model_among_the_words(tmp_path: Path) -> None:
    assert split_words((), None, is_remote=False) == (None, None)
    assert split_words((str(tmp_path),), None, is_remote=False) == (str(tmp_path), None)
    assert split_words(("Qwen/Qwen3-0.6B",), None, is_remote=True) == ("Qwen/Qwen3-0.6B", None)
    assert split_words(("and/or, or both?",), None, is_remote=False) == (None, "and/or, or both?")
    assert split_words(("a/b",), "m", is_remote=False) == ("m", "a/b")


def test_a_refused_question_is_taken_back() -> None:
    talk = Conversation("短")
    talk.ask("一")
    talk.answered("二")
    talk.ask("三")
    talk.answered("")
    assert [message["content"] for message in talk.messages] == ["短", "一", "二"]
    assert talk.command("/save") == "Say where: /save FILE."
    assert "cannot be written" in talk.command("/save no/such/folder/x.json")
    with pytest.raises(Leave):
        talk.command("/exit")
