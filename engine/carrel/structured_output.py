"""From the form that a text must have to a compiled grammar: which tokens may come next, at every place.

llguidance does the grammar; this module says what is asked of it, how much of it, and with which tokens of a model. It
knows no requests and no scheduling. Compiling runs in the caller's thread. See docs/adr/0011-structured-output.md.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, regex_to_lark

from carrel.caller_grammar import checked_grammar
from carrel.errors import InvalidParamsError
from carrel.grammar import Bitmask, Grammar
from carrel.lark import json_text, json_value, quoted
from carrel.schema_limits import MAX_BYTES, refused
from carrel.structured_params import StructuredOutputsParams
from carrel.tokenizer import Tokenizer

CACHED_GRAMMARS = 32
NON_EMPTY = "/(?s:.+)/"
# Every token that may come, though only one text may: a model may split that text in its own way.
OPTIONS = '%llguidance {"no_forcing": true}\n'


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
        self._limits = LLParserLimits(step_lexer_fuel=100_000, max_lexer_states=50_000, verbose_errors=False)
        self._cache: OrderedDict[str, CompiledGrammar] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, lark: str) -> Grammar:
        """The grammar of a Lark text, from the cache if it was asked for not long ago.

        Raises:
            InvalidParamsError: it is wrong, or too large; the message says where.
        """
        with self._lock:
            found = self._cache.get(lark)
            if found is not None and not found.is_spent:
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
        grammar = CompiledGrammar(self._parser, OPTIONS + lark, self._known, self._ends)
        grammar.matcher().fill_bitmask(np.zeros_like(self._known))  # a bomb may go off only here
        return grammar

    def _parser(self, lark: str) -> LLMatcher:
        """One that shares nothing with others."""
        parser = LLMatcher(self._tokens, lark, log_level=0, limits=self._limits)
        check(parser)
        return parser


class CompiledGrammar:
    """Implements :class:`carrel.grammar.Grammar`. Copies of a parser share what they learn, and the limits on that."""

    def __init__(self, parser: Callable[[str], LLMatcher], lark: str, known: Bitmask, ends: frozenset[int]) -> None:
        self.known, self.ends = known, ends
        self.is_spent = False  # some sequence has run the common parser over its limits
        self._parser, self._lark = parser, lark
        self._first = parser(lark)

    def matcher(self) -> GrammarMatcher:
        return GrammarMatcher(self, self._first.deep_copy())

    def parser_of_one(self) -> LLMatcher:
        """A parser for one sequence alone, after the common one is spent."""
        self.is_spent = True
        return self._parser(self._lark)


class GrammarMatcher:
    """Implements :class:`carrel.grammar.Matcher`."""

    def __init__(self, grammar: CompiledGrammar, parser: LLMatcher) -> None:
        self._grammar, self._parser = grammar, parser
        self._is_alone = False
        self._consumed: list[int] = []

    def consume(self, token_ids: Sequence[int]) -> None:
        text_ids = [token for token in token_ids if token not in self._grammar.ends]
        self._consumed += text_ids
        self._parser.consume_tokens(text_ids)
        if self._parser.is_error():
            self._begin_alone()

    def fill_bitmask(self, mask: Bitmask) -> None:
        known = self._grammar.known
        assert mask.flags.c_contiguous and mask.shape == known.shape, "one bit for each token, side by side"
        self._parser.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._parser.is_error():
            self._begin_alone()
            self._parser.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
            check(self._parser)
        mask &= known
        if not mask.any():
            raise refused("no token of this model's vocabulary goes on from here.")

    def _begin_alone(self) -> None:
        """The limits may have been reached by another sequence: once more, without the others."""
        if not self._is_alone:
            self._is_alone, self._parser = True, self._grammar.parser_of_one()
            self._parser.consume_tokens(self._consumed)
        check(self._parser)


def known_tokens(tokens: Sequence[bytes], ends: Iterable[int]) -> Bitmask:
    """[ceil(len(tokens) / 32)] a bit for each token that is one: rows that only pad the embedding are none."""
    bits = np.zeros(-(-len(tokens) // 32) * 32, dtype=np.bool_)
    bits[: len(tokens)] = [bool(token) for token in tokens]
    bits[list(ends)] = True
    return np.packbits(bits, bitorder="little").view("<i4").astype(np.int32)


def check(parser: LLMatcher) -> None:
    """Raise what a parser has run into, if it has."""
    if parser.is_error():
        raise _error(parser.get_error())


def _error(message: str) -> InvalidParamsError:
    """What is wrong in the compiler's own words, without its copy of the grammar."""
    lines = [line.strip() for line in message.replace("<non-verbose/>", "").splitlines()]
    text = " ".join([lines[0], *(line for line in lines[1:] if line.startswith("error:"))])
    if text.startswith("NoExtension"):
        return refused("no text has this form.")
    reason = text.partition("failed to compile JSON schema: ")[2].partition(" Enable 'coerce_one_of'")[0] or text
    return refused(f"{reason[:400].strip().removesuffix('.')}.")
