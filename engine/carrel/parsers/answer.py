"""How the answer to one chat call will be written. Knows the rendered prompt; knows no token of the answer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Protocol

from carrel.chat_options import ChatOptions
from carrel.errors import InvalidParamsError, RequestError
from carrel.parsers.bare_values import NoForm
from carrel.parsers.base import AnswerFormat, MessageParser, TextParser
from carrel.parsers.call_forms import call_form
from carrel.parsers.call_grammar import Vocabulary, about_tools, calls_grammar, free_grammar, special_id
from carrel.parsers.registry import detect_tool_parser, thought_tags, tool_parsers
from carrel.parsers.thoughts import ThoughtParser, ThoughtState
from carrel.parsers.tool_set import ToolSet


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
        InvalidParamsError: a tool's schema is not one.
    """
    make: Callable[[], MessageParser] = TextParser
    markers: tuple[str, ...] = ()
    grammar, calls = None, None
    start, end, state = _thoughts(model, options, prompt)
    thought_start = start if state == "maybe" else None
    if options.may_call:
        name, tools = _tool_parser(model, options), ToolSet(options.tools)
        name, grammar = _held(name, tools, options, model.tokenizer, thought_start)
        parser = tool_parsers()[name]
        make, markers = functools.partial(parser, tools), parser.tokens
        calls = None if options.forced_tools else functools.partial(_calls, name, tools, options, model.tokenizer)
    return AnswerFormat(
        make_parser=make if state == "closed" else lambda: ThoughtParser(make(), state, start=start, end=end),
        kept_special_ids=_special_ids(model.tokenizer, (*markers, start, end)),
        thought_end=None if state == "closed" else end,
        thought_start=thought_start,
        tool_grammar=grammar,
        make_calls_grammar=calls,
    )


def _tool_parser(model: AnsweringModel, options: ChatOptions) -> str:
    """Name of the format of calls: the model's own, or JSON if one is forced and nothing is known."""
    found = model.tool_call_parser or (detect_tool_parser(options.chat_template) if options.chat_template else None)
    if found is None and not options.forced_tools:
        raise RequestError(
            f"How {model.key} writes tool calls is not known, so it cannot choose to call tools. Name its format with "
            '--tool-call-parser (tool_call_parser=), or force a call with tool_choice "required".',
            param="tools",
        )
    return found or "json"


def _held(
    name: str, tools: ToolSet, options: ChatOptions, vocabulary: Vocabulary, thought_start: str | None
) -> tuple[str, str | None]:
    """The format and its grammar. Forced calls are JSON where the model's own format cannot be held to a schema."""
    try:
        try:
            return name, _tool_grammar(name, tools, options, vocabulary, thought_start)
        except NoForm:
            if not options.forced_tools:
                raise
            return "json", _tool_grammar("json", tools, options, vocabulary, thought_start)
    except InvalidParamsError as error:
        raise about_tools(error) from error


def _tool_grammar(
    name: str, tools: ToolSet, options: ChatOptions, vocabulary: Vocabulary, thought_start: str | None
) -> str | None:
    """Forced calls always have a form; calls of the model's own will if a tool is strict, or one call is the most."""
    many, forced = options.parallel_tool_calls, options.forced_tools
    if forced:
        single = not many or options.tool_choice != "required"  # a named tool is called once
        return calls_grammar(call_form(name, vocabulary), tools.schemas(forced), vocabulary, many=not single)
    if many and not tools.are_strict:
        return None
    form, schemas = call_form(name, vocabulary), tools.strict_schemas()
    return free_grammar(form, schemas, vocabulary, many=many, thought_start=thought_start)


def _calls(name: str, tools: ToolSet, options: ChatOptions, vocabulary: Vocabulary) -> str:
    many = options.parallel_tool_calls
    return calls_grammar(call_form(name, vocabulary), tools.strict_schemas(), vocabulary, many=many)


def _thoughts(model: AnsweringModel, options: ChatOptions, prompt: str) -> tuple[str, str, ThoughtState]:
    if model.reasoning_parser is not None:
        start, end = thought_tags()[model.reasoning_parser]
        state = thought_state(prompt, start, end, continues=options.continue_final_message)
        if state != "closed":
            return start, end, state
    return "", "", "closed"


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


def _special_ids(vocabulary: Vocabulary, markers: tuple[str, ...]) -> frozenset[int]:
    ids = {special_id(marker, vocabulary) for marker in markers if marker}
    return frozenset(token_id for token_id in ids if token_id is not None)
