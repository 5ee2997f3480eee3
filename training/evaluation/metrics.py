"""What an answer is worth, as pure functions: F1 and exact match as SQuAD has them, reciprocal rank, intervals.

English is compared by words without case, punctuation and articles, Chinese by characters without punctuation. Knows
no models and no files.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from carrel_rag.citations import normalise

RIGHT = 0.5  # F1 from which an answer counts as right
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_RESAMPLES = 1_000


def strip_marks(text: str) -> str:
    """``text`` without its citation marks.

    >>> strip_marks("It burned colza oil [1][3].")
    'It burned colza oil.'
    """
    return normalise(text, 0).strip()


def tokens(text: str, lang: str) -> list[str]:
    """What is compared: words, or Chinese characters.

    >>> tokens("The Café's 4,812 lamps.", "en"), tokens("《红楼梦》，1791年", "zh")
    (['cafés', '4812', 'lamps'], ['红', '楼', '梦', '1', '7', '9', '1', '年'])
    """
    if lang == "zh":
        plain = unicodedata.normalize("NFKC", text).casefold()
        return [char for char in plain if unicodedata.category(char)[0] in "LMN"]
    kept = [char for char in text.lower() if not _is_punctuation(char)]
    return _ARTICLES.sub(" ", "".join(kept)).split()


def _is_punctuation(char: str) -> bool:
    return char in string.punctuation or unicodedata.category(char)[0] == "P"


def f1(said: str, answers: Sequence[str], lang: str) -> float:
    """Harmonic mean of precision and recall of tokens, by the alternative that it fits best.

    >>> f1("in 1868 by Sholes", ["Sholes", "Christopher Sholes"], "en")
    0.4
    """
    return max((_token_f1(tokens(said, lang), tokens(answer, lang)) for answer in answers), default=0.0)


def _token_f1(said: Sequence[str], wanted: Sequence[str]) -> float:
    common = (Counter(said) & Counter(wanted)).total()
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


def exact(said: str, answers: Sequence[str], lang: str) -> float:
    """1.0 if the tokens are those of an alternative, otherwise 0.0."""
    return float(any(tokens(said, lang) == tokens(answer, lang) for answer in answers if tokens(answer, lang)))


def holds(text: str, answers: Sequence[str], lang: str) -> bool:
    """Whether ``text`` holds one of the answers as whole words, or characters.

    >>> holds("Built in 1932.", ["32"], "en"), holds("建于1932年。", ["1932"], "zh")
    (False, True)
    """
    whole = _joined(tokens(text, lang))
    return any(_joined(part) in whole for answer in answers if (part := tokens(answer, lang)))


def _joined(parts: Sequence[str]) -> str:
    return f"\n{chr(10).join(parts)}\n"


def reciprocal_rank(ranking: Sequence[str], gold: str, limit: int = 10) -> float:
    """1 / the place of ``gold`` among the first ``limit``, 0.0 if it is not there."""
    places = list(ranking[:limit])
    return 1.0 / (1 + places.index(gold)) if gold in places else 0.0


@dataclass(frozen=True)
class Mean:
    """A mean with the interval that 95 % of bootstrap samples lie in."""

    value: float
    low: float
    high: float
    count: int

    def percent(self) -> str:
        """``41.2 (37.9 to 44.6)``, in percent; a dash where nothing was counted."""
        if not self.count:
            return "–"
        return f"{100 * self.value:.1f} ({100 * self.low:.1f} to {100 * self.high:.1f})"


def mean_of(values: Sequence[float], seed: int = 0) -> Mean:
    """The mean of ``values`` with its interval; the same values and seed give the same interval."""
    if not values:
        return Mean(0.0, 0.0, 0.0, 0)
    data = np.asarray(values, np.float64)
    chosen = np.random.default_rng(seed).integers(len(data), size=(_RESAMPLES, len(data)))
    low, high = np.percentile(data[chosen].mean(axis=1), [2.5, 97.5])
    return Mean(float(data.mean()), float(low), float(high), len(data))
