"""How the answer to one chat call will be written. Knows the rendered prompt; knows no token of the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from carrel.chat_options import ChatOptions
from carrel.errors import RequestError
from carrel.parsers.base import AnswerFormat, MessageParser, TextParser
from carrel.parsers.registry import thought_tags, tool_parsers
from carrel.parsers.thoughts import ThoughtParser, ThoughtState
from carrel.parsers.tool_set import ToolSet


class Vocabulary(Protocol):
    """What is needed of a tokenizer."""

    @property
    def special_ids(self) -> frozenset[int]: ...

    def token_to_id(self, token: str) -> int | None: ...


class AnsweringModel(Protocol):
    """What is needed of a hosted model."""

    @property
    def key(self) -> str: ...
    @property
    def tool_call_parser(self) -> str | None: ...
    @property
    def reasoning_parser(self) -> str | None: ...
    @property
    def tokenizer(self) -> Vocabulary: ...


def answer_format(model: AnsweringModel, options: ChatOptions, prompt: str) -> AnswerFormat:
    """What takes the answer to ``prompt`` apart, and what form holds it.

    Raises:
        RequestError: the model may call tools as it likes, and how it writes calls is not known.
    """
    make, markers = _answer_parser(model, options)
    if model.reasoning_parser is None:
        return AnswerFormat(make_parser=make, kept_special_ids=_special_ids(model.tokenizer, markers))
    start, end = thought_tags()[model.reasoning_parser]
    state = thought_state(prompt, start, end, continues=options.continue_final_message)
    if state == "closed":
        return AnswerFormat(make_parser=make, kept_special_ids=_special_ids(model.tokenizer, markers))
    return AnswerFormat(
        make_parser=lambda: ThoughtParser(make(), state, start=start, end=end),
        kept_special_ids=_special_ids(model.tokenizer, (*markers, start, end)),
        thought_end=end,
        thought_start=start if state == "maybe" else None,
    )


def thought_state(prompt: str, start: str, end: str, *, continues: bool = False) -> ThoughtState:
    """Whether the answer begins inside of thoughts, behind them, or before what may become some. One that
    ``continues`` the last message is inside if that message is.

    >>> thought_state("<|assistant|><think>\\n", "<think>", "</think>")
    'open'
    >>> thought_state("<|assistant|><think>\\n\\n</think>\\n\\n", "<think>", "</think>")
    'closed'
    """
    if continues:
        return "open" if prompt.rfind(start) > prompt.rfind(end) else "closed"
    tail = prompt.rstrip()
    if tail.endswith(start):
        return "open"
    if tail.endswith(end):
        return "closed"
    return "maybe"


def _answer_parser(model: AnsweringModel, options: ChatOptions) -> tuple[Callable[[], MessageParser], tuple[str, ...]]:
    if not options.may_call:
        return TextParser, ()
    if model.tool_call_parser is None:
        raise RequestError(
            f"How {model.key} writes tool calls is not known, so it cannot choose to call tools. Name its format with "
            '--tool-call-parser (tool_call_parser=), or force a call with tool_choice "required".',
            param="tools",
        )
    parser, tools = tool_parsers()[model.tool_call_parser], ToolSet(options.tools)
    return lambda: parser(tools), tuple(parser.markers)


def _special_ids(vocabulary: Vocabulary, markers: tuple[str, ...]) -> frozenset[int]:
    ids = {vocabulary.token_to_id(marker) for marker in markers}
    return frozenset(token_id for token_id in ids if token_id is not None) & vocabulary.special_ids
