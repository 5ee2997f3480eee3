"""Characters and lines: what is Chinese, and how wrapped lines grow together again. Knows no documents."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

# Han, kana, bopomofo, CJK punctuation and full-width forms. Hangul is written with spaces, so it is not here.
_HAN_KANA = "\u3040-\u30ff\u3100-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
CJK = f"\u2e80-\u303f{_HAN_KANA}\uff00-\uffef"
CJK_LETTER = f"\u2e80-\u2fdf\u3005-\u3007{_HAN_KANA}"
_CJK = re.compile(f"[{CJK}]")
_CJK_LETTER = re.compile(f"[{CJK_LETTER}]")
_LETTER = re.compile(r"[^\W\d_]")


def is_cjk(char: str) -> bool:
    """Whether the character is Han, kana or the punctuation that goes with them."""
    return _CJK.match(char) is not None


def cjk_share(text: str) -> float:
    """The share of Han and kana among the letters of ``text``, 0 to 1.

    >>> cjk_share("墨玉卡 VIP")
    0.5
    """
    letters = len(_LETTER.findall(text))
    return len(_CJK_LETTER.findall(text)) / letters if letters else 0.0


def is_chinese(text: str) -> bool:
    """Whether to answer in Chinese: a fifth of the letters is enough, since names stay Latin in Chinese questions."""
    return cjk_share(text) >= 0.2


def join_lines(lines: Sequence[str], *, separator: str = " ") -> str:
    """Lines without outer and doubled blanks, joined by ``separator``; empty ones are dropped."""
    return separator.join(" ".join(line.split()) for line in lines if line.strip())


def unwrapped(text: str) -> str:
    """A text in one line: wrapped lines and doubled blanks have gone.

    >>> unwrapped("由市财\\n政局  负责"), unwrapped("burned\\n colza oil")
    ('由市财政局 负责', 'burned colza oil')
    """
    return functools.reduce(join_wrapped, (" ".join(line.split()) for line in text.splitlines()), "")


def join_wrapped(first: str, second: str) -> str:
    """Two lines of one paragraph as one: no blank between Chinese characters, a word hyphenated over the end is whole.

    >>> join_wrapped("旧版办法同时废", "止。")
    '旧版办法同时废止。'
    >>> join_wrapped("a hyphen-", "ated word")
    'a hyphenated word'
    """
    first, second = first.rstrip(), second.lstrip()
    if not first or not second:
        return first or second
    if first[-1] == "\u00ad" or (
        first[-1] in "-\u2010" and len(first) > 1 and first[-2].isalpha() and second[0].islower()
    ):
        return first[:-1] + second
    if first[-1] == "-" and second[0].isalnum() and len(first) > 1 and first[-2] != " ":
        return first + second
    if is_cjk(first[-1]) or is_cjk(second[0]):
        both = is_cjk(first[-1]) and is_cjk(second[0])
        latin = first[-1] if is_cjk(second[0]) else second[0]
        return first + second if both or not latin.isascii() or not latin.isalpha() else f"{first} {second}"
    if second[0] == "-" and len(second) > 1 and second[1].isdigit() and first[-1].isdigit():
        return first + second
    return f"{first} {second}"
