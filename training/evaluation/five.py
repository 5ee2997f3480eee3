"""Five passages for a question: the one that answers among four that only look so, in a shuffled order.

The four are what the pipeline's search finds first for the question and that holds none of its answers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from carrel_rag.retriever import Retrieval
from carrel_rag.schema import RetrievedChunk

from training.evaluation.library import Library
from training.evaluation.metrics import holds
from training.evaluation.questions import Question

NUM_PASSAGES = 5


@dataclass(frozen=True)
class Item:
    """A question as it is put to a reader. ``gold`` is the number of the passage that answers, None: none does."""

    question: Question
    retrieval: Retrieval
    gold: int | None
    first: int  # the number of the passage that search ranks first


def make_item(question: Question, library: Library, *, answerable: bool, seed: int) -> Item | None:
    """``answerable`` false: no passage answers, though one may be the passage that the question was written for.

    None if nothing is found that does not answer: "1" stands in every passage.
    """
    found = library.search(question.text)
    own = _own_chunk(question, library) if answerable or not question.answers else None
    wrong = [
        chunk
        for chunk in found.chunks
        if chunk.source != question.passage
        and not holds(chunk.text, question.answers, question.lang)
        and (own is not None or chunk.title != question.title)
    ]
    chosen = [own, *wrong][:NUM_PASSAGES] if own is not None else wrong[:NUM_PASSAGES]
    if not chosen:
        return None
    random.Random(f"{seed}/{question.id}").shuffle(chosen)
    ids = [chunk.id for chunk in chosen]
    best = next((chunk.id for chunk in found.chunks if chunk.id in ids), ids[0])
    return Item(
        question,
        replace(found, chunks=tuple(library.judged(question.text, chosen))),
        ids.index(own.id) + 1 if own is not None and answerable else None,
        ids.index(best) + 1,
    )


def _own_chunk(question: Question, library: Library) -> RetrievedChunk:
    """Of the question's own passage the chunk with the answer; if none has it, the one that fits best."""
    chunks = library.chunks_of(question.text, question.passage)
    assert chunks, "a passage that is indexed has chunks"
    return next((chunk for chunk in chunks if holds(chunk.text, question.answers, question.lang)), chunks[0])
