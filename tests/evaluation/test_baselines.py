"""Answers by words alone."""

from __future__ import annotations

from carrel_rag.relevance import make_question
from carrel_rag.schema import RetrievedChunk

from training.evaluation.baselines import best_sentence, best_span, first_sentence


def chunk(text: str) -> RetrievedChunk:
    return RetrievedChunk(
        id=1, document_id="d", source="s", title="", media_type="text/plain", ordinal=0, start=0, end=len(text),
        text=text, page=None, section=(), score=1.0,
    )  # fmt: skip


ENGLISH = [
    chunk("Typewriters are heavy. Many were sold."),
    chunk("It was long awaited. The first practical typewriter was patented by Christopher Sholes of Milwaukee."),
]
CHINESE = [chunk("希腊有很多城邦。它们各自独立。"), chunk("亚历山大逝世后，爆发了对马其顿霸权的挑战。")]


def test_the_sentence_with_most_of_the_question() -> None:
    question = make_question("Who patented the typewriter?", {}, 10)
    sentence = "The first practical typewriter was patented by Christopher Sholes of Milwaukee."
    assert best_sentence(question, ENGLISH) == (sentence, 2)
    assert first_sentence(ENGLISH[1]) == "It was long awaited."


def test_the_span_beside_the_questions_words() -> None:
    """Small words at its ends are left out, and words of the question are never in it."""
    question = make_question("Who patented the first practical typewriter?", {}, 10)
    assert best_span(question, ENGLISH) == ("Christopher Sholes of Milwaukee", 2)
    asked = make_question("亚历山大逝世后，爆发了对谁霸权的挑战？", {}, 10)
    assert best_span(asked, CHINESE) == ("马其顿", 2)


def test_a_sentence_that_only_repeats_the_question() -> None:
    question = make_question("Typewriters are heavy?", {}, 10)
    assert best_span(question, ENGLISH) == ("Typewriters are heavy.", 1)
