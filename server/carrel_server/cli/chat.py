"""``carrel chat``: a conversation in the terminal, with a model in this process or behind a URL."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from carrel.errors import CarrelError, RequestError

from carrel_server.cli.conversation import Conversation, Leave
from carrel_server.cli.local import model_options, open_llm
from carrel_server.cli.screen import Screen

if TYPE_CHECKING:
    from carrel_server.cli.talker import Talker, Wishes

KEY_VARIABLES = ("CARREL_API_KEY", "VLLM_API_KEY")
READER = "starter/reader"


@click.command(short_help="Chat with a model, here or behind a URL.")
@click.argument("words", nargs=-1, metavar="[MODEL] [QUESTION]")
@model_options(None)
@click.option("--base-url", metavar="URL", help="Ask this server instead, e.g. http://127.0.0.1:8000.")
@click.option("--api-key", help=f"For --base-url. Default: {', '.join(KEY_VARIABLES)}.")
@click.option("--system", help="System message.")
@click.option("--max-tokens", type=click.IntRange(1), default=1024, show_default=True, help="Of one answer.")
@click.option("--temperature", type=float, help="0 is greedy. Default: as the model's author says.")
@click.option("--seed", type=int, help="Same seed, same text.")
@click.option("--think/--no-think", default=None, help="For models that can do both.")
@click.option("--show-thoughts/--hide-thoughts", default=None, help="Default: shown, dim, in a terminal.")
def chat(
    words: tuple[str, ...],
    model: str | None,
    base_url: str | None,
    api_key: str | None,
    device: str,
    dtype: str,
    system: str | None,
    show_thoughts: bool | None,
    **wishes: Any,
) -> None:
    """Chat with a model: one answer to QUESTION, or a conversation when there is none.

    MODEL is a folder or a name such as Qwen/Qwen2.5-0.5B-Instruct; default: the bundled reader, or the first chat
    model of the server. In a conversation /help lists the commands, Ctrl-C stops an answer and Ctrl-D leaves. Lines of
    a pipe are one question each.
    """
    from carrel_server.cli.talker import Wishes

    model, question = split_words(words, model, is_remote=base_url is not None)
    with open_talker(model, base_url, api_key, device, dtype, Wishes(**wishes)) as talker:
        chat = TerminalChat(talker, Screen(), Conversation(system), show_thoughts)
        if question is not None:
            chat.ask(question)
        else:
            chat.run()


def split_words(words: tuple[str, ...], model: str | None, *, is_remote: bool) -> tuple[str | None, str | None]:
    """The model and the question among the arguments. A model is a folder, or owner/name.

    >>> split_words(("starter/reader", "你好"), None, is_remote=False), split_words(("Who?",), None, is_remote=False)
    (('starter/reader', '你好'), (None, 'Who?'))

    Raises:
        click.UsageError: more than that.
    """
    rest = list(words)
    if rest and model is None and (len(rest) > 1 or names_model(rest[0], is_remote=is_remote)):
        model = rest.pop(0)
    if len(rest) > 1:
        raise click.UsageError('Put a question of several words in quotes: carrel chat "Who are you?".')
    return model, rest[0] if rest else None


def names_model(word: str, *, is_remote: bool) -> bool:
    from carrel.hub import REPOSITORY

    if REPOSITORY.fullmatch(word) and "/" in word:
        return True
    return not is_remote and Path(word).expanduser().is_dir()


@contextmanager
def open_talker(
    model: str | None, base_url: str | None, api_key: str | None, device: str, dtype: str, wishes: Wishes
) -> Iterator[Talker]:
    if base_url is not None:
        from carrel_server.cli.http_talker import HttpTalker

        keys = (api_key, *(os.environ.get(name) for name in KEY_VARIABLES))
        yield HttpTalker(base_url, next(filter(None, keys), None), model, wishes)
        return
    if api_key is not None:
        raise click.UsageError("--api-key is for --base-url.")
    from carrel_server.cli.talker import LocalTalker

    with open_llm(model or READER, device, dtype) as llm:
        yield LocalTalker(llm, wishes)


class TerminalChat:
    """Questions to answers until the input ends."""

    def __init__(
        self, talker: Talker, screen: Screen, conversation: Conversation, show_thoughts: bool | None = None
    ) -> None:
        self._talker, self._screen, self._conversation = talker, screen, conversation
        self._shows_thoughts = screen.people if show_thoughts is None else show_thoughts

    def run(self) -> None:
        self._screen.say(f"{self._talker.name} on {self._talker.place}. /help lists the commands, Ctrl-D leaves.")
        with suppress(Leave):
            while self._turn():
                pass

    def _turn(self) -> bool:
        """A line and what follows from it; False when the input has ended. Ctrl-C ends the turn, wherever it is."""
        try:
            line = self._screen.question()
            if line is not None:
                self._take(line)
        except KeyboardInterrupt:
            if not self._screen.people:
                raise
            self._screen.say("\n(Ctrl-D or /exit leaves.)")
            return True
        return line is not None

    def _take(self, line: str) -> None:
        """A command, or a question. People may go on after an error; a pipe may not."""
        if self._screen.people and line.startswith("/") and not line.startswith("//"):
            self._screen.say(self._conversation.command(line))
            return
        try:
            self.ask(line[1:] if self._screen.people and line.startswith("//") else line)
        except RequestError as error:
            if not self._screen.people:
                raise
            click.echo(f"Error: {error}", err=True)

    def ask(self, question: str) -> None:
        """One turn.

        Raises:
            CarrelError: it was refused, or nobody answers; the conversation is as before.
        """
        self._conversation.ask(question)
        try:
            with closing(self._talker.answer(self._conversation.messages)) as pieces:
                answer, reason = self._show(pieces)
        except (CarrelError, KeyboardInterrupt):
            self._conversation.take_back()
            raise
        self._conversation.answered(answer)
        if reason == "length":
            self._screen.say("(The answer was cut; --max-tokens allows longer ones.)")

    def _show(self, pieces: Iterable[Any]) -> tuple[str, str | None]:
        """The text that was shown, and why it ended. Ctrl-C stops the answer and nothing else."""
        answer, reason = "", None
        try:
            for piece in pieces:
                if self._shows_thoughts:
                    self._screen.show(piece.thought, dim=True)
                self._screen.show(piece.text)
                answer, reason = answer + piece.text, piece.finish_reason
        except KeyboardInterrupt:
            if not self._screen.people:
                raise
        self._screen.end()
        return answer, reason
