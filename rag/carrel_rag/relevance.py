"""How much a text answers a question, from two kinds of evidence: a model's score and the question's own words.

A cross-encoder reads question and text together and is trusted alone; a small one knows few words, so the question's
own words count beside it, added up as logits. A bi-encoder's cosine only says that both are about the same thing, and a
small English one knows nothing of Chinese; so it is mixed with coverage: the share of the question's terms that the
text holds, rare terms weighing more. The more Chinese the question, the more coverage counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from carrel_rag.lexical import index_terms, query_terms
from carrel_rag.protocols import RerankerKind
from carrel_rag.text import cjk_share

_COSINE_WEIGHT = 0.55  # of a bi-encoder, for a question in English
_COSINE_WEIGHT_CHINESE = 0.15
# Of a small cross-encoder: by training/calibrate.py, on questions that the starters were not trained on. The second of
# each pair is the median coverage of passages that answer; what has more of it gains.
_SMALL, _SMALL_CHINESE = (4.0, 0.66), (8.0, 0.44)
# A pair of Chinese characters that stands nowhere is mostly the seam of two words, and says little.
_UNKNOWN_BIGRAM_WEIGHT = 0.25


@dataclass(frozen=True)
class Question:
    """A question with the weight of each of its terms in this knowledge base."""

    text: str
    weights: Mapping[str, float]

    @property
    def terms(self) -> tuple[str, ...]:
        return tuple(self.weights)

    def coverage(self, *texts: str, weights: Sequence[float] = ()) -> float:
        """The weighted share of terms found, 0 to 1. A term counts by the weight of the best text that holds it.

        >>> Question("", {"nut": 1.0, "lock": 1.0}).coverage("the nut", "a lock", weights=(1.0, 0.5))
        0.75
        """
        total = sum(self.weights.values())
        if not total:
            return 0.0
        held = [
            (set(index_terms(text)), weight) for text, weight in zip(texts, weights or [1.0] * len(texts), strict=True)
        ]
        found = 0.0
        for term, weight in self.weights.items():
            found += weight * max((share for terms, share in held if term in terms), default=0.0)
        return found / total

    def blend(self, kind: RerankerKind, score: float, coverage: float) -> float:
        """The two kinds of evidence as one number, 0 to 1."""
        if kind == "cross-encoder":
            return score
        if kind == "small-cross-encoder":
            share = cjk_share(self.text)
            (small, usual), (small_chinese, usual_chinese) = _SMALL, _SMALL_CHINESE
            odds = log_odds(score)
            odds += (1 - share) * small * (coverage - usual) + share * small_chinese * (coverage - usual_chinese)
            return 1 / (1 + math.exp(-odds))
        chinese = cjk_share(self.text)
        weight = (1 - chinese) * _COSINE_WEIGHT + chinese * _COSINE_WEIGHT_CHINESE
        return weight * max(0.0, score) + (1 - weight) * coverage


def log_odds(probability: float) -> float:
    """The logit, with probabilities of 0 and 1 taken as very small and very large ones.

    >>> log_odds(0.5)
    0.0
    """
    inside = min(max(probability, 1e-9), 1 - 1e-9)
    return math.log(inside / (1 - inside))


def make_question(text: str, frequencies: Mapping[str, int], num_chunks: int) -> Question:
    """``frequencies``: in how many chunks each term of the question stands."""
    return Question(text, {term: _weight(term, frequencies.get(term, 0), num_chunks) for term in query_terms(text)})


def _weight(term: str, frequency: int, num_chunks: int) -> float:
    weight = math.log(1 + (num_chunks - frequency + 0.5) / (frequency + 0.5))
    if frequency == 0 and cjk_share(term) > 0:
        return _UNKNOWN_BIGRAM_WEIGHT * weight
    return max(weight, 0.1)
