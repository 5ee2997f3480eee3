"""Text to search terms: Latin words stemmed lightly, Chinese as pairs of characters; the same for both sides.

BM25 needs words, and Chinese has no blanks: indexed are its bigrams, and single characters beside them; a question
gives bigrams only, and the character itself where it stands alone. Knows no index.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from carrel_rag.text import CJK_LETTER

_RUN = re.compile(f"(?P<cjk>[{CJK_LETTER}]+)|(?P<word>[^\\W_{CJK_LETTER}]+)")
_NUMBER_COMMA = re.compile(r"(?<=\d)[,.](?=\d)")
_STOP_WORDS = frozenset(
    re.findall(
        r"\S+",
        """
    a about an and any are as at be been being but by can could did do does doing each for from get had has have
    he her his how i if in into is it its just me may might more most much must my no not of on one or our shall
    she should so some such than that the their them then there these they this those to up upon us use was we
    were what when where which while who whom whose why will with would you your tell please many
    """,
    )
)
# Pairs that only ask. They stand in questions of every subject and would find every other question.
_STOP_BIGRAMS = frozenset(
    re.findall(
        r"\S+",
        """
    什么 么是 是什 多少 少钱 怎么 么样 怎样 如何 哪些 哪个 哪里 哪一 为什 是多 有多 是否 请问
    可以 能否 多久 几天 几个 有哪 有什 吗 呢 的是 是谁 谁是 需要 是哪 什麼 麼是 怎麼 為什 麼樣 哪裡 有幾 幾個 告诉 诉我
    """,
    )
)


def index_terms(text: str) -> list[str]:
    """All terms of a passage, in order.

    >>> index_terms("墨玉卡 1.5 Cards")
    ['墨', '玉', '卡', '墨玉', '玉卡', '1', '5', 'card']
    """
    terms: list[str] = []
    for run, chinese in _runs(text):
        if chinese:
            terms.extend(run)
            terms.extend(_bigrams(run))
        else:
            terms.append(stem(run))
    return terms


def query_terms(text: str) -> list[str]:
    """The terms to look for, each once, words that say nothing left out (unless nothing else is there).

    >>> query_terms("Who patented the typewriters?")
    ['patent', 'typewriter']
    >>> query_terms("退货电话是多少")
    ['退货', '货电', '电话', '话是']
    """
    every = list(dict.fromkeys(_query_runs(text)))
    telling = [term for term, stop in every if not stop]
    return telling or [term for term, _ in every]


def _query_runs(text: str) -> Iterator[tuple[str, bool]]:
    for run, chinese in _runs(text):
        if not chinese:
            yield stem(run), run in _STOP_WORDS
        elif len(run) == 1:
            yield run, run in _STOP_BIGRAMS
        else:
            for pair in _bigrams(run):
                yield pair, pair in _STOP_BIGRAMS


def _runs(text: str) -> Iterator[tuple[str, bool]]:
    plain = _NUMBER_COMMA.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    for match in _RUN.finditer(plain):
        if match.lastgroup == "cjk":
            yield match.group(), True
        else:
            yield match.group(), False


def _bigrams(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(len(run) - 1)]


def stem(word: str) -> str:
    """The word without the ending of English plurals, past tense and -ing; crude, but the same on both sides.

    >>> stem("batteries"), stem("planned"), stem("nuts")
    ('batteri', 'plan', 'nut')
    """
    if len(word) <= 3 or not word.isascii() or not word.isalpha():
        return word
    for ending, minimum in (
        ("sses", 6),
        ("ies", 5),
        ("ing", 6),
        ("ied", 5),
        ("ed", 5),
        ("es", 5),
        ("s", 4),
        ("y", 4),
        ("e", 4),
    ):
        if word.endswith(ending) and len(word) >= minimum and not (ending == "s" and word[-2] in "su"):
            return _tidy(word[: -len(ending)], ending)
    return word


def _tidy(root: str, ending: str) -> str:
    if ending == "sses":
        return root + "ss"
    if ending in ("ies", "ied", "y"):
        return root + "i"
    if ending in ("ing", "ed") and len(root) > 3 and root[-1] == root[-2] and root[-1] not in "lsz":
        return root[:-1]
    return root[:-1] if root.endswith("e") and len(root) > 3 else root
