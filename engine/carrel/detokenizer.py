"""Turns a growing list of token ids into text, piece by piece. Knows one sequence; knows no stop strings.

The pieces of one sequence joined are what decoding all its ids at once gives. A piece never ends inside a character:
bytes that are not a whole character yet are held back, and only :meth:`Detokenizer.flush` gives up on them (U+FFFD).

Two ways, chosen by the tokenizer's decoder:

* byte-level BPE (Qwen, Llama 3, GPT-2): the text is the tokens' bytes joined, so an incremental UTF-8 decoder is exact;
* everything else: the difference between decoding a short window without and with the new tokens. The window starts
  with tokens that are already out, because the first token of a text is decoded in another way than a later one.

The prompt's last tokens seed both, so that a sequence goes on where the prompt stopped: a character that the prompt
began is completed, a leading space is kept, and no text of the prompt itself comes out.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from itertools import takewhile
from typing import Protocol

from carrel.tokenizer import Tokenizer, clean_up

PROMPT_TAIL = 32  # prompt tokens that seed the decoder: the bytes of a character, and a visible token before them
MAX_HELD_TOKENS = 16  # of a window that ends in U+FFFD: a broken model may never finish the character
MAX_CHAR_BYTES = 4


class Detokenizer(Protocol):
    """Text of one sequence."""

    def push(self, token_ids: Sequence[int]) -> str:
        """Append tokens; the text that is certain now. "" while a character is unfinished."""

    def flush(self) -> str:
        """The text that was held back; call once, at the end."""


def make_detokenizer(
    tokenizer: Tokenizer,
    prompt_token_ids: Sequence[int] = (),
    *,
    skip_special_tokens: bool = True,
    kept_special_ids: frozenset[int] = frozenset(),
) -> Detokenizer:
    """A detokenizer that goes on where the prompt ends. ``kept_special_ids`` are not skipped in any case.

    >>> from carrel import hub
    >>> tokenizer = Tokenizer.from_folder(hub.resolve("starter/reader"))
    >>> detokenizer = make_detokenizer(tokenizer)
    >>> [detokenizer.push([token_id]) for token_id in tokenizer.encode("龘a")]
    ['', '龘', 'a']
    """
    tail = prompt_token_ids[-PROMPT_TAIL:]
    skipped = tokenizer.special_ids - kept_special_ids if skip_special_tokens else frozenset[int]()
    if tokenizer.is_byte_level:
        return ByteDetokenizer(tokenizer, tail, skipped)
    window = WindowDetokenizer(tokenizer, tail, skipped)
    return CleanUpDetokenizer(window) if tokenizer.cleans_up else window


class ByteDetokenizer:
    """For decoders that join bytes."""

    def __init__(self, tokenizer: Tokenizer, prompt_tail: Sequence[int], skipped: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._skipped = skipped
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = unfinished_character(self._bytes(prompt_tail))  # by the prompt

    def push(self, token_ids: Sequence[int]) -> str:
        new = self._bytes(token_ids)
        if new and self._begun:
            if num_characters(self._begun + new[:1]) in (0, 1):
                new = self._begun + new
            self._begun = b""
        return self._decoder.decode(new)

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)

    def _bytes(self, token_ids: Sequence[int]) -> bytes:
        token_bytes = self._tokenizer.token_bytes
        return b"".join([token_bytes(token_id) for token_id in token_ids if token_id not in self._skipped])


class WindowDetokenizer:
    """For every other decoder.

    ::

        window:   already out: the context  |  held or new
                  0                         read        len
    """

    def __init__(self, tokenizer: Tokenizer, prompt_tail: Sequence[int], skipped: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._skipped = skipped
        seed = [token_id for token_id in prompt_tail if self._is_visible(token_id)]
        run = self._trailing_byte_tokens(seed)
        self._window = seed[: len(seed) - len(run)]
        self._read = len(self._window)
        self._read_text = self._decode(self._window)
        # Of the prompt's last bytes only those of a character that it began can still become text.
        begun = unfinished_character(self._bytes(run))
        self._begun = run[len(run) - len(begun) :]

    def push(self, token_ids: Sequence[int]) -> str:
        return "".join([self._push_one(token_id) for token_id in token_ids if self._is_visible(token_id)])

    def flush(self) -> str:
        return self._release(self._decode(self._window)) if len(self._window) > self._read else ""

    def _push_one(self, token_id: int) -> str:
        is_byte = self._is_byte(token_id)
        if self._begun:
            if is_byte and num_characters(self._bytes([*self._begun, token_id])) in (0, 1):
                self._window += self._begun
            self._begun = []
        self._window.append(token_id)
        if is_byte:
            return ""  # a run of bytes is decoded as a whole, one bad byte spoils all of it: wait for its end
        text = self._decode(self._window)
        return "" if self._is_open(text) else self._release(text)

    def _is_open(self, text: str) -> bool:
        """True if the text may end inside a character."""
        num_held = len(self._window) - self._read
        return text.endswith("\ufffd") and not self._tokenizer.has_byte_fallback and num_held < MAX_HELD_TOKENS

    def _release(self, text: str) -> str:
        new = text[len(self._read_text) :]
        # What comes out now is the next context, if it shows: the first visible token is decoded in its own way.
        context = self._window[self._read :]
        context_text = self._decode(context)
        if context_text:
            self._window, self._read_text = context, context_text
        else:
            self._read_text = text
        self._read = len(self._window)
        return new

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode_raw(token_ids, skip_special_tokens=False)

    def _bytes(self, token_ids: Sequence[int]) -> bytes:
        return b"".join([self._tokenizer.token_bytes(token_id) for token_id in token_ids])

    def _is_visible(self, token_id: int) -> bool:
        return token_id not in self._skipped and self._tokenizer.id_to_token(token_id) is not None

    def _is_byte(self, token_id: int) -> bool:
        token = self._tokenizer.id_to_token(token_id)
        return token is not None and self._tokenizer.is_byte_token(token)

    def _trailing_byte_tokens(self, token_ids: Sequence[int]) -> list[int]:
        run = list(takewhile(self._is_byte, reversed(token_ids)))
        return run[::-1]


class CleanUpDetokenizer:
    """Removes the spaces that a word tokenizer leaves before punctuation.

    The rule looks at up to four characters, so text is held from the last space at which no rule can reach across.
    """

    def __init__(self, inner: Detokenizer) -> None:
        self._inner = inner
        self._held = ""

    def push(self, token_ids: Sequence[int]) -> str:
        self._held += self._inner.push(token_ids)
        cut = self._held.rfind(" ")
        while cut > 0 and not self._is_safe(cut):
            cut = self._held.rfind(" ", 0, cut)
        released, self._held = self._held[: max(cut, 0)], self._held[max(cut, 0) :]
        return clean_up(released)

    def flush(self) -> str:
        text, self._held = self._held + self._inner.flush(), ""
        return clean_up(text)

    def _is_safe(self, cut: int) -> bool:
        before = self._held[max(0, cut - 2) : cut]
        return not before.endswith((" ", "'")) and before != " n"


def unfinished_character(data: bytes) -> bytes:
    """The last bytes of ``data`` if they begin a UTF-8 character and do not finish it, else b""."""
    for length in range(1, min(MAX_CHAR_BYTES, len(data) + 1)):
        if num_characters(data[-length:]) == 0:
            return data[-length:]
    return b""


def num_characters(data: bytes) -> int | None:
    """Whole characters in ``data``, which may end inside one; None if it is not UTF-8."""
    try:
        return len(codecs.getincrementaldecoder("utf-8")("strict").decode(data))
    except UnicodeDecodeError:
        return None
