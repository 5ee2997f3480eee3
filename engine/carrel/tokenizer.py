"""Text to token ids and back. Knows one model's vocabulary; knows no model, no chat template, no limits.

Every method may be called from any thread: the backend is never changed after loading (``tokenizers`` fails with
"Already borrowed" when one thread changes its options while another one encodes), so nothing is copied or locked.
Truncation is therefore done on the encodings, not by the backend's options.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from carrel.errors import RequestError
from carrel.tokenizer_files import TokenizerFiles, load_tokenizer_files

CHARACTERS_READ = 16  # of a text that will be cut, for each token that is kept
LONG_TEXT = 2_000  # characters, or ids: from here on the backend is called so that other threads go on meanwhile
CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")  # each loses its spaces


class Tokenizer:
    """The tokenizer of one model folder.

    >>> from carrel import hub
    >>> tokenizer = Tokenizer.from_folder(hub.resolve("starter/reader"))
    >>> tokenizer.decode(tokenizer.encode("你好, world"))
    '你好, world'
    """

    def __init__(self, files: TokenizerFiles) -> None:
        self._files = files
        self._backend = files.backend
        self._added = files.backend.get_added_tokens_decoder()
        self._token_bytes: dict[int, bytes] = {}  # filled on use; two threads at worst compute the same value

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Load the tokenizer files of a model folder; errors as of :func:`load_tokenizer_files`."""
        return cls(load_tokenizer_files(Path(folder)))

    # -- text to ids

    def encode(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        max_length: int | None = None,
        truncation_side: Literal["left", "right"] = "right",
    ) -> list[int]:
        """Ids of a text; with ``max_length`` one side of the text is cut, special tokens are kept."""
        if max_length is None:
            return self._encode_all(text, add_special_tokens)
        room = max(0, max_length - (self.num_special_tokens if add_special_tokens else 0))
        encoding = self.begin(text, room if truncation_side == "right" else None)
        encoding.truncate(room, direction=truncation_side)
        return self.finish(encoding, add_special_tokens=add_special_tokens)

    def begin(self, text: str, enough: int | None = None) -> Any:
        """The backend's encoding, without special tokens. Of a long text only as far as is ``enough``.

        What follows in a text cannot change the tokens of words before it, but for the last one. So when the words
        before that have more than ``enough`` tokens, the first ``enough`` are those of the whole text.
        """
        length = CHARACTERS_READ * (enough or 0)
        while enough and isinstance(text, str) and length < len(text):
            encoding = self._encode(text[:length])
            words = encoding.word_ids
            num_sure = next((i for i in range(len(words), 0, -1) if words[i - 1] != words[-1]), 0)
            if num_sure > enough:
                return encoding
            length = 4 * length if num_sure else len(text)  # a tokenizer that knows no words reads everything
        return self._encode(text)

    def finish(self, encoding: Any, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of what :meth:`begin` gave, with the special tokens around them."""
        return list(self._backend.post_process(encoding, None, add_special_tokens).ids)

    def encode_batch(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> list[list[int]]:
        """Ids of many texts, encoded in parallel."""
        try:
            encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        except (TypeError, UnicodeError):
            return [self.encode(text, add_special_tokens=add_special_tokens) for text in texts]
        return [encoding.ids for encoding in encodings]

    def encode_pair(
        self,
        first: str,
        second: str,
        max_length: int | None = None,
        *,
        max_second: int | None = None,
        enough: int | None = None,
    ) -> tuple[list[int], list[int]]:
        """Ids and segment ids of a pair; as :meth:`pair`."""
        pair = self.pair(first, second, max_length, max_second=max_second, enough=enough)
        return list(pair.ids), list(pair.type_ids)

    def pair(
        self,
        first: str,
        second: str,
        max_length: int | None = None,
        *,
        max_second: int | None = None,
        enough: int | None = None,
    ) -> Any:
        """The backend's encoding of a pair, as the model was trained on: ids, segment ids, places in the texts.

        Only ``second`` is cut: to ``max_second`` tokens, and so that the whole fits ``max_length``. Of texts that have
        more than ``enough`` tokens no more than that need come.

        Raises:
            RequestError: ``first`` alone leaves no room.
        """
        a = self.begin(first, _smallest(max_length, enough))
        b = self.begin(second, _smallest(max_second, max_length, enough))
        if max_second is not None:
            b.truncate(max_second)
        if max_length is not None:
            room = max_length - self.num_special_tokens_of_pair - len(a.ids)
            if room < 1:
                raise RequestError(
                    f"The query has {len(a.ids)} tokens, and the limit of {max_length} leaves no room for a document. "
                    "Shorten the query.",
                    param="query",
                )
            b.truncate(room)
        return self._backend.post_process(a, b, True)

    def _encode_all(self, text: str, add_special_tokens: bool) -> list[int]:
        if not isinstance(text, str) or len(text) < LONG_TEXT:
            return self.finish(self._encode(text), add_special_tokens=add_special_tokens)
        try:  # only the backend's batches let go of Python's lock
            return list(self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids)
        except (TypeError, UnicodeError) as error:
            raise _unreadable(text) from error

    def _encode(self, text: str) -> Any:
        try:
            if isinstance(text, str) and len(text) >= LONG_TEXT:
                return self._backend.encode_batch([text], add_special_tokens=False)[0]
            return self._backend.encode(text, add_special_tokens=False)
        except (TypeError, UnicodeError) as error:
            raise _unreadable(text) from error

    @cached_property
    def num_special_tokens(self) -> int:
        """Tokens that ``encode`` adds to one text."""
        return int(self._backend.num_special_tokens_to_add(False))

    @cached_property
    def num_special_tokens_of_pair(self) -> int:
        return int(self._backend.num_special_tokens_to_add(True))

    # -- ids to text

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of ids, as transformers gives it. Ids outside of the vocabulary are left out."""
        text = self.decode_raw(token_ids, skip_special_tokens)
        return clean_up(text) if self._files.clean_up else text

    def decode_raw(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text before any clean-up."""
        if len(token_ids) >= LONG_TEXT:  # as in _encode_all
            return str(self._backend.decode_batch([list(token_ids)], skip_special_tokens=skip_special_tokens)[0])
        return str(self._backend.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    def id_to_token(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it; None if there is no such id."""
        return self._backend.id_to_token(token_id) if 0 <= token_id < 2**32 else None

    def convert_ids_to_tokens(self, token_ids: Sequence[int]) -> list[str | None]:
        return [self.id_to_token(token_id) for token_id in token_ids]

    def token_to_id(self, token: str) -> int | None:
        token_id: int | None = self._backend.token_to_id(token)
        return token_id

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one token stands for, which need not be whole characters; b"" for an unknown id."""
        known = self._token_bytes.get(token_id)
        if known is None:
            known = self._token_bytes[token_id] = self._compute_bytes(token_id)
        return known

    def _compute_bytes(self, token_id: int) -> bytes:
        token = self.id_to_token(token_id)
        if token is None:
            return b""
        if self.is_byte_level:
            return byte_level_bytes(token)
        if self.is_byte_token(token):
            return bytes([int(token[3:5], 16)])
        return token.replace("▁", " ").removeprefix("##" if self.model_kind == "WordPiece" else "").encode()

    def is_byte_token(self, token: str) -> bool:
        """True for ``<0x0A>`` and its kind, in a vocabulary that falls back to bytes."""
        return self.has_byte_fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">")

    # -- facts

    @property
    def backend(self) -> Any:
        """The ``tokenizers.Tokenizer``. Do not change it: other threads are using it."""
        return self._backend

    @property
    def special_tokens(self) -> dict[str, str]:
        """Named special tokens, e.g. ``{"eos_token": "</s>"}``."""
        return self._files.special_tokens

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that ``skip_special_tokens`` leaves out."""
        return frozenset(token_id for token_id, token in self._added.items() if token.special)

    @property
    def chat_template(self) -> str | None:
        """The text of the model's own chat template."""
        return self._files.chat_template

    @property
    def tool_chat_template(self) -> str | None:
        """The text of its template for conversations with tools, if it has another one for them."""
        return self._files.tool_chat_template

    @property
    def cleans_up(self) -> bool:
        return self._files.clean_up

    @property
    def model_max_length(self) -> int | None:
        return self._files.model_max_length

    def _special_id(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return self.token_to_id(token) if token else None

    @cached_property
    def bos_token_id(self) -> int | None:
        return self._special_id("bos_token")

    @cached_property
    def eos_token_id(self) -> int | None:
        return self._special_id("eos_token")

    @cached_property
    def pad_token_id(self) -> int | None:
        return self._special_id("pad_token")

    @cached_property
    def vocab_size(self) -> int:
        """Tokens with the added ones; the model's embedding may have more rows."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @cached_property
    def model_kind(self) -> str:
        """ "BPE", "WordPiece", "Unigram" or "WordLevel"."""
        return type(self._backend.model).__name__

    @cached_property
    def decoders(self) -> tuple[str, ...]:
        """Names of the decoder's parts in order, e.g. ("ByteLevel",)."""
        decoder = self._backend.decoder
        if decoder is None:
            return ()
        state = json.loads(decoder.__getstate__())
        return tuple(part["type"] for part in state.get("decoders", [state]))

    @cached_property
    def is_byte_level(self) -> bool:
        """True if the text of tokens is nothing but their bytes joined."""
        return self.decoders == ("ByteLevel",)

    @cached_property
    def has_byte_fallback(self) -> bool:
        return "ByteFallback" in self.decoders


def _smallest(*numbers: int | None) -> int | None:
    return min((number for number in numbers if number is not None), default=None)


def clean_up(text: str) -> str:
    """Remove the spaces that a word tokenizer leaves before punctuation; transformers' rule, in its order."""
    for pattern in CLEAN_UP:
        text = text.replace(pattern, pattern.strip())
    return text


@lru_cache(maxsize=1)
def byte_of_char() -> dict[str, int]:
    """The alphabet of byte-level BPE: GPT-2's printable stand-in for each of the 256 bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(rest)}


def byte_level_bytes(token: str) -> bytes:
    """Bytes of a byte-level token; a token that uses other characters (an added one) stands for itself."""
    alphabet = byte_of_char()
    values = [alphabet.get(char) for char in token]
    return token.encode() if None in values else bytes(value for value in values if value is not None)


def _unreadable(text: object) -> RequestError:
    if isinstance(text, str):
        return RequestError("The text holds half of a surrogate pair (it is not valid Unicode).")
    return RequestError(f"A text must be a string, got {type(text).__name__}.")
