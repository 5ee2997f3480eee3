"""Bytes to text when nobody says which encoding. Knows how often characters occur; does not know file formats.

The order: byte order mark, UTF-8, what the document declares, UTF-8 with a few bad bytes, UTF-16 without a mark, the
East Asian encodings judged by how common their characters are, Windows-1252 for text that is mostly ASCII, and
charset-normalizer for the rest.
"""

from __future__ import annotations

import codecs
import unicodedata
from dataclasses import dataclass

from charset_normalizer import from_bytes

from carrel_rag.errors import UnreadableDocumentError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark begins with UTF-16's
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SUPERSETS = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "iso-8859-1": "cp1252", "ascii": "cp1252"}
_SAMPLE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class _EastAsian:
    codec: str
    leads: range  # first bytes of the characters of daily use
    frequent: str  # characters that every longer text holds


_EAST_ASIAN = (
    _EastAsian(
        "gb18030",
        range(0xB0, 0xD8),
        "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年元第为与及或应由",
    ),
    _EastAsian(
        "big5",
        range(0xA4, 0xC7),
        "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年元第為與及或應由",
    ),
    _EastAsian(
        "cp932",
        range(0x82, 0x98),
        "のにはをたがでてとしれさあるいるもなかっらこそだりアイスントルリラーコレドシ年月日人",
    ),
    _EastAsian("euc_kr", range(0xB0, 0xC9), "이다는을에의가고하를은지로한기도사서어리나시그대인자있것수들해정"),
)


def decode_text(data: bytes, *, declared: str | None = None) -> str:
    """The text of ``data``, without its byte order mark; line ends stay as they are.

    Raises:
        UnreadableDocumentError: the bytes are not text.
    """
    for mark, codec in _BOMS:
        if data.startswith(mark):
            return _checked(data[len(mark) :].decode(codec, errors="replace"))
    text = _try_decode(data, "utf-8")
    if text is None and declared is not None:
        text = _try_decode(data, _SUPERSETS.get(declared.lower(), declared))
    if text is None:
        text = _damaged_utf8(data)
    if text is None or "\x00" in text[:_SAMPLE_BYTES]:
        text = _guess(data)
    return _checked(text)


def _try_decode(data: bytes, codec: str) -> str | None:
    try:
        return data.decode(codec)
    except (UnicodeDecodeError, LookupError):
        return None


def _damaged_utf8(data: bytes) -> str | None:
    """UTF-8 with U+FFFD for bytes that were cut or spoilt, when three characters are whole for each that is not.

    Other encodings hardly ever make whole characters: Windows-1252 none, the East Asian ones fewer than they spoil.
    """
    text = data.decode("utf-8", errors="replace")
    bad = text.count("\ufffd")
    whole = len(text) - len(text.encode("ascii", errors="ignore")) - bad
    return text if whole >= 3 * bad else None


def _guess(data: bytes) -> str:
    wide = _utf16_without_mark(data)
    if wide is not None:
        return wide
    if b"\x00" in data:
        raise UnreadableDocumentError("this is not text: it holds zero bytes.")
    return _guess_east_asian(data) or _guess_western(data)


def _utf16_without_mark(data: bytes) -> str | None:
    """UTF-16 of mostly Latin text has a zero in every second byte."""
    sample = data[:_SAMPLE_BYTES]
    half = max(1, len(sample) // 2)
    for codec, offset in (("utf-16-le", 1), ("utf-16-be", 0)):
        if sample[offset::2].count(0) > 0.4 * half and sample[1 - offset :: 2].count(0) < 0.05 * half:
            return _try_decode(data, codec)
    return None


def _guess_east_asian(data: bytes) -> str | None:
    best, best_score = None, 0.85  # below: too few common characters to be one of these
    for encoding in _EAST_ASIAN:
        text = _try_decode(data, encoding.codec)
        if text is None:
            continue
        score = _plausibility(text[:_SAMPLE_BYTES], encoding)
        if score > best_score:
            best, best_score = text, score
    return best


def _plausibility(text: str, encoding: _EastAsian) -> float:
    """Share of characters of daily use, plus twice the share of the most frequent ones; 0 without wide characters."""
    wide = [char for char in text if ord(char) > 0x2E7F and not 0xFF00 <= ord(char) <= 0xFF65]
    if not wide:
        return 0.0
    common = sum(_is_common(char, encoding) for char in wide)
    frequent = sum(char in encoding.frequent for char in wide)
    return (common + 2.0 * frequent) / len(wide)


def _is_common(char: str, encoding: _EastAsian) -> bool:
    if 0x3000 <= ord(char) <= 0x303F:  # punctuation
        return True
    try:
        code = char.encode(encoding.codec)
    except UnicodeEncodeError:
        return False
    return len(code) == 2 and code[0] in encoding.leads and (encoding.codec != "gb18030" or code[1] >= 0xA1)


def _guess_western(data: bytes) -> str:
    text = _try_decode(data, "cp1252")
    if text is not None and _mostly_ascii_letters(text[:_SAMPLE_BYTES]):
        return text
    match = from_bytes(data).best()
    if match is None:
        raise UnreadableDocumentError("this is not text in any encoding that is known.")
    return str(match)


def _mostly_ascii_letters(text: str) -> bool:
    letters = [char for char in text if char.isalpha()]
    return sum(char.isascii() for char in letters) >= 0.7 * len(letters)


def _checked(text: str) -> str:
    sample = text[:_SAMPLE_BYTES]
    odd = sum(unicodedata.category(char) in ("Cc", "Cn", "Co") and char not in "\t\n\r\f\v\x85" for char in sample)
    odd += sample.count("\ufffd")
    if odd > 0.02 * len(sample) + 2:
        raise UnreadableDocumentError("this is not text: too many of its characters are control signs.")
    return text
