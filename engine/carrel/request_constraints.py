"""What a request may not draw, from what its caller asks for: texts become tokens, forms become grammars.

Knows a hosted model and its vocabulary; knows no prompt. What is wrong is refused here, before there is a request.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from carrel.errors import InvalidParamsError
from carrel.grammar import Grammar
from carrel.hosted_model import HostedModel
from carrel.lark import after_thinking, nested
from carrel.params import SamplingParams
from carrel.parsers.base import AnswerFormat
from carrel.parsers.call_grammar import about_tools
from carrel.tokenizer import Tokenizer

MAX_BAD_WORDS = 1000

TokenWords = tuple[tuple[int, ...], ...]


def compile_form(model: HostedModel, params: SamplingParams, answer: AnswerFormat | None = None) -> Grammar | None:
    """The form that the text must have; None if it may be anything. Thoughts of a chat may be anything always, and
    where the model chooses whether to call tools, calls may stand in place of a form that is asked for.

    Raises:
        InvalidParamsError: there is no such form, it is too large, the model cannot end a text, or a call is forced, so
            that the form would have no place.
    """
    lark = answer.tool_grammar if answer is not None else None
    calls = answer.make_calls_grammar if answer is not None else None
    if params.structured_outputs is not None:
        if lark is not None and calls is None:
            message = "tool_choice asks for a call, and structured_outputs for a form of the text; give one of them."
            raise InvalidParamsError(message, param="tool_choice")
        from carrel.structured_output import response_lark  # loads llguidance

        lark = response_lark(params.structured_outputs)
        if calls is not None:
            lark = f"start: calls | response\ncalls: {nested(calls())}\nresponse: {nested(lark)}\n"
    if lark is None:
        return None
    if params.ignore_eos:
        raise InvalidParamsError(
            "ignore_eos does not go with a form that the text must have: the text ends where its form does.",
            param="ignore_eos",
        )
    if answer is not None and answer.thought_end is not None:
        lark = _behind_thoughts(lark, answer.thought_start, answer.thought_end, model.tokenizer)
    try:
        return model.grammar_compiler.compile(lark)
    except InvalidParamsError as error:
        if answer is None or answer.tool_grammar is None or params.structured_outputs is not None:
            raise
        raise about_tools(error) from error


def _behind_thoughts(lark: str, start: str | None, end: str, tokenizer: Tokenizer) -> str:
    return after_thinking(
        lark, end, start=start, start_id=_special_id(start, tokenizer), end_id=_special_id(end, tokenizer)
    )


def _special_id(text: str | None, tokenizer: Tokenizer) -> int | None:
    """The special token of that name. A token that is plain text is written by its text."""
    token_id = tokenizer.token_to_id(text) if text is not None else None
    return token_id if token_id in tokenizer.special_ids else None


def bad_words_token_ids(tokenizer: Tokenizer, words: Sequence[str]) -> TokenWords:
    """The tokens of each word, at the beginning of a text and behind a space.

    >>> from carrel import hub
    >>> tokenizer = Tokenizer.from_folder(hub.resolve("starter/reader"))
    >>> [tokenizer.decode(word) for word in bad_words_token_ids(tokenizer, ["fox"])]
    ['fox', ' fox']

    Raises:
        InvalidParamsError: there are too many, or one has no tokens.
    """
    if len(words) > MAX_BAD_WORDS:
        message = f"bad_words holds {len(words)} texts; {MAX_BAD_WORDS} are allowed."
        raise InvalidParamsError(message, param="bad_words")
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        text = word.lstrip()
        plain = tuple(tokenizer.encode(text, add_special_tokens=False))
        if not plain:
            raise InvalidParamsError(f"bad_words: {word!r} has no tokens.", param="bad_words")
        spaced = tuple(tokenizer.encode(" " + text, add_special_tokens=False))
        found |= dict.fromkeys((plain, spaced or plain))
    return tuple(found)


def check_vocabulary(model: HostedModel, params: SamplingParams) -> None:
    """Pass token ids that the model has.

    Raises:
        InvalidParamsError: one is beyond its vocabulary.
    """
    _check_ids(model, "logit_bias", params.logit_bias or ())
    _check_ids(model, "allowed_token_ids", params.allowed_token_ids or ())


def _check_ids(model: HostedModel, name: str, token_ids: Iterable[int]) -> None:
    size = model.config.vocab_size
    for token_id in token_ids:
        if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < size:
            raise InvalidParamsError(
                f"{name} holds {token_id!r}, which is no token id of {model.key} (0 … {size - 1}).", param=name
            )
