"""From the form that a text must have to a compiled grammar: which tokens may come next, at every place.

llguidance does the grammar; this module says what is asked of it, how much of it, and with which tokens of a model. It
knows no requests and no scheduling. Compiling runs in the caller's thread. See docs/adr/0011-structured-output.md.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, regex_to_lark

from carrel.caller_grammar import checked_grammar
from carrel.errors import InvalidParamsError
from carrel.grammar import Bitmask, Grammar
from carrel.lark import json_text, json_value, quoted
from carrel.schema_limits import refused
from carrel.structured_params import StructuredOutputsParams
from carrel.tokenizer import Tokenizer

MAX_BYTES = 256 << 10  # of the grammar of any form
CACHED_GRAMMARS = 64
NON_EMPTY = "/(?s:.+)/"


def response_lark(params: StructuredOutputsParams) -> str:
    """The grammar of a form: Lark text with a rule ``start``.

    >>> print(response_lark(StructuredOutputsParams(choice=["是", "否"])))
    start: CHOICE
    CHOICE: "是" | "否"

    Raises:
        InvalidParamsError: the form makes no sense, or is too large.
    """
    if params.json is not None:
        schema = params.json
        return "start: " + (json_text(schema) if isinstance(schema, str) else json_value(schema))
    if params.json_object:
        return "start: " + json_value({"type": "object"})
    if params.regex is not None:
        if not params.regex:
            raise refused("the regex is empty.")
        return f"start: /{regex_to_lark(params.regex, 'd')}/"
    if params.choice is not None:
        return "start: CHOICE\nCHOICE: " + " | ".join(map(quoted, params.choice))
    if params.grammar is not None:
        return checked_grammar(params.grammar)
    assert params.substrings_of is not None, "exactly one form is given"
    return _substrings(params.substrings_of)


def _substrings(texts: Sequence[str]) -> str:
    """Any characters that stand in one of the texts side by side; at least one."""
    names = [f"TEXT_{index}" for index in range(len(texts))]
    rules = [f'{name}: %regex {{"substring_chars": {quoted(text)}}}' for name, text in zip(names, texts, strict=True)]
    return "\n".join([f"start: PIECE\nPIECE: ({' | '.join(names)}) & {NON_EMPTY}", *rules])


class Vocabulary:
    """A tokenizer as llguidance takes it: the bytes of each token, and which of them are no text."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id, self.bos_token_id = eos_token_ids[0], None
        self.tokens = [tokenizer.token_bytes(token) for token in range(vocab_size)]
        self.special_token_ids = sorted({*tokenizer.special_ids, *eos_token_ids})

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)


class GrammarCompiler:
    """Compiles grammars for one model. Any thread may use it.

    Args:
        tokenizer: of the model.
        vocab_size: of the model; ids beyond the tokenizer's are never allowed.
        eos_token_ids: every one of them may end a text.

    Raises:
        InvalidParamsError: there is no token that ends a text.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Iterable[int]) -> None:
        ends = sorted(token for token in eos_token_ids if 0 <= token < vocab_size)
        if not ends:
            raise refused("the model has no end-of-sequence token, so a text cannot end where its form does.")
        vocabulary = Vocabulary(tokenizer, vocab_size, ends)
        self._tokens = LLTokenizer(vocabulary, eos_token=ends)  # type: ignore[arg-type]  # a wrapper by its attributes
        self._known = known_tokens(vocabulary.tokens, ends)
        self._ends = frozenset(ends)
        self._limits = LLParserLimits(step_lexer_fuel=100_000, max_lexer_states=30_000, verbose_errors=False)
        self._cache: OrderedDict[str, CompiledGrammar] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, lark: str) -> Grammar:
        """The grammar of a Lark text, from the cache if it was asked for not long ago.

        Raises:
            InvalidParamsError: it is wrong, or too large; the message says where.
        """
        with self._lock:
            if (found := self._cache.get(lark)) is not None:
                self._cache.move_to_end(lark)
                return found
        grammar = self._compile(lark)
        with self._lock:
            self._cache[lark] = grammar
            while len(self._cache) > CACHED_GRAMMARS:
                self._cache.popitem(last=False)
        return grammar

    def _compile(self, lark: str) -> CompiledGrammar:
        try:
            size = len(lark.encode())
        except UnicodeEncodeError as error:
            raise refused("it holds half of a surrogate pair (it is not valid Unicode).") from error
        if size > MAX_BYTES:
            raise refused(f"it takes {size >> 10} KiB; {MAX_BYTES >> 10} KiB are allowed.")
        matcher = LLMatcher(self._tokens, lark, log_level=0, limits=self._limits)
        grammar = CompiledGrammar(matcher, self._known, self._ends)
        grammar.matcher().fill_bitmask(np.zeros_like(self._known))  # a bomb may go off only here
        return grammar


class CompiledGrammar:
    """Implements :class:`carrel.grammar.Grammar`."""

    def __init__(self, matcher: LLMatcher, known: Bitmask, ends: frozenset[int]) -> None:
        check(matcher)
        self._matcher, self._known, self._ends = matcher, known, ends

    def matcher(self) -> GrammarMatcher:
        return GrammarMatcher(self._matcher.deep_copy(), self._known, self._ends)


class GrammarMatcher:
    """Implements :class:`carrel.grammar.Matcher`."""

    def __init__(self, matcher: LLMatcher, known: Bitmask, ends: frozenset[int]) -> None:
        self._matcher, self._known, self._ends = matcher, known, ends

    def consume(self, token_ids: Sequence[int]) -> None:
        text_ids = [token for token in token_ids if token not in self._ends]
        self._matcher.consume_tokens(text_ids)
        check(self._matcher)

    def fill_bitmask(self, mask: Bitmask) -> None:
        assert mask.flags.c_contiguous and mask.shape == self._known.shape, "one bit for each token, side by side"
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        check(self._matcher)
        mask &= self._known
        if not mask.any():
            raise refused("no token of this model's vocabulary goes on from here.")


def known_tokens(tokens: Sequence[bytes], ends: Iterable[int]) -> Bitmask:
    """[ceil(len(tokens) / 32)] a bit for each token that is one: rows that only pad the embedding are none."""
    bits = np.zeros(-(-len(tokens) // 32) * 32, dtype=np.bool_)
    bits[: len(tokens)] = [bool(token) for token in tokens]
    bits[list(ends)] = True
    return np.packbits(bits, bitorder="little").view("<i4").astype(np.int32)


def check(matcher: LLMatcher) -> None:
    """Raise what a matcher has run into, if it has."""
    if matcher.is_error():
        raise _error(matcher.get_error())


def _error(message: str) -> InvalidParamsError:
    """The compiler's own words, without the places that it means for itself."""
    lines = [line.strip() for line in message.replace("<non-verbose/>", "").splitlines()]
    text = " ".join(line for line in lines if line and not line.startswith("<"))
    return refused(text[:500].strip())
