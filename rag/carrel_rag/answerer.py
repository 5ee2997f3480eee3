"""From retrieved passages to an answer, as a stream of events. Knows both modes; does not search.

Both modes give the same events in the same order: what was retrieved (or that nothing was), text, citations, answer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from carrel_rag.citations import CitationFilter, attribute, find_citations
from carrel_rag.extractive import ExtractiveConfig, extract_answer
from carrel_rag.pieces import choosing_grammar, cite_piece, quoting_grammar
from carrel_rag.prompts import abstention, pack_messages
from carrel_rag.protocols import ChatModel, Message, Reranker, SpanFinder
from carrel_rag.relevance import Question
from carrel_rag.retriever import Retrieval
from carrel_rag.schema import (
    Answer,
    AnswerEvent,
    Citation,
    CitationEvent,
    DeltaEvent,
    Event,
    NoContextEvent,
    RetrievedChunk,
    RetrievedEvent,
    Timings,
    Usage,
)
from carrel_rag.spans import extract_span, find_candidates

AnswerMode = Literal["generative", "extractive"]
_TRUST = 2.0  # how much worse than the best, in log odds, an answer may be that the starter reader chooses among


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How a chat model writes; ``constrain``: nothing but a piece of a passage with its number, or the abstention."""

    max_tokens: int
    temperature: float
    constrain: bool


@dataclass(frozen=True)
class _Form:
    """What a chat model is held to, and the citations of the answers that are known beforehand."""

    grammar: str
    citations: Mapping[str, Citation] = field(default_factory=dict)


@dataclass
class _Draft:
    """An answer while it is made."""

    retrieval: Retrieval
    mode: AnswerMode
    started: float
    chunks: tuple[RetrievedChunk, ...]
    text: str = ""
    citations: tuple[Citation, ...] = ()
    usage: Usage = field(default_factory=Usage)
    first_token: float | None = None
    abstained: bool = False
    finish_reason: Literal["stop", "length"] = "stop"

    def say(self, text: str) -> DeltaEvent:
        if self.first_token is None:
            self.first_token = time.perf_counter() - self.started
        self.text += text
        return DeltaEvent(text=text)

    @property
    def timings(self) -> Timings:
        return Timings(
            retrieve=self.retrieval.retrieve_seconds,
            rerank=self.retrieval.rerank_seconds,
            first_token=self.first_token,
            total=time.perf_counter() - self.started,
        )

    def finish(self) -> Answer:
        return Answer(
            question=self.retrieval.question.text,
            text=self.text,
            citations=self.citations,
            chunks=self.chunks,
            usage=self.usage,
            timings=self.timings,
            mode=self.mode,
            abstained=self.abstained,
            finish_reason=self.finish_reason,
        )


@dataclass(frozen=True)
class Answerer:
    """Writes answers with a chat model, or takes them out of passages: spans or sentences that a reranker chose."""

    reranker: Reranker
    chat: ChatModel | None
    extractive: ExtractiveConfig

    def stream(self, retrieval: Retrieval, mode: AnswerMode, writing: Writing, *, started: float) -> Iterator[Event]:
        """Events until the :class:`AnswerEvent`; closing the iterator stops the model. ``started``: perf_counter()."""
        draft = _Draft(retrieval, mode, started, retrieval.chunks)
        messages: list[Message] = []
        form: _Form | None = None
        if mode == "generative" and draft.chunks:
            assert self.chat is not None, "the pipeline refuses the generative mode without a chat model"
            question = retrieval.question.text
            if writing.constrain:
                draft.chunks = draft.chunks[: quoting_grammar(question, draft.chunks)[1]]
            messages, draft.chunks = pack_messages(question, draft.chunks, self.chat, max_tokens=writing.max_tokens)
            if writing.constrain:
                form = self._form(self.chat, retrieval.question, draft.chunks)
        yield RetrievedEvent(chunks=draft.chunks, timings=draft.timings)
        if not draft.chunks:
            yield from self._abstain(draft, _why_empty(retrieval))
        elif writing.constrain and messages and form is None:
            yield from self._abstain(draft, "passages were found, but none is relevant enough.")
        elif messages:
            assert self.chat is not None, "messages are made for a chat model"
            yield from self._generate(draft, self.chat, messages, writing, form)
        else:
            yield from self._extract(draft)
        for citation in draft.citations:
            yield CitationEvent(citation=citation)
        yield AnswerEvent(answer=draft.finish())

    def _form(self, chat: ChatModel, question: Question, chunks: Sequence[RetrievedChunk]) -> _Form | None:
        """What an answer is held to; None if there is nothing to answer with.

        The starter reader says words better than it knows whether and where a passage answers. The starter reranker
        knows, so the reader has the choice among the answers that this one finds nearly as good as its best.
        """
        judge = self.reranker
        if not chat.is_starter or judge.kind != "small-cross-encoder" or not isinstance(judge, SpanFinder):
            return _Form(quoting_grammar(question.text, chunks)[0])
        found = find_candidates(question, chunks, judge, self.extractive)
        near = [each for each in found if each.score >= found[0].score - _TRUST]
        known = {each.text: each.citation for each in reversed(near)}  # of equal texts the better place
        return _Form(choosing_grammar([each.text for each in near]), known) if near else None

    def _abstain(self, draft: _Draft, reason: str) -> Iterator[Event]:
        draft.abstained = True
        yield NoContextEvent(reason=reason)
        yield draft.say(abstention(draft.retrieval.question.text))

    def _extract(self, draft: _Draft) -> Iterator[Event]:
        question, config = draft.retrieval.question, self.extractive
        if config.answer == "span" and isinstance(self.reranker, SpanFinder):
            text, citations = extract_span(question, draft.chunks, self.reranker, config)
        else:
            text, citations = extract_answer(question, draft.chunks, self.reranker, config)
        if not text:
            yield from self._abstain(draft, "passages were found, but no sentence of them answers the question.")
            return
        draft.citations = citations
        yield draft.say(text)

    def _generate(
        self, draft: _Draft, chat: ChatModel, messages: list[Message], writing: Writing, form: _Form | None
    ) -> Iterator[Event]:
        marks = CitationFilter(len(draft.chunks))
        grammar = form.grammar if form is not None else None
        for delta in chat.stream_chat(
            messages, max_tokens=writing.max_tokens, temperature=writing.temperature, grammar=grammar
        ):
            draft.usage = Usage(prompt_tokens=delta.prompt_tokens, completion_tokens=delta.completion_tokens)
            draft.finish_reason = "length" if delta.finish_reason == "length" else "stop"
            shown = marks.feed(delta.text, final=False)
            if shown := shown if draft.text else shown.lstrip():  # a reader's first token may begin with a blank
                yield draft.say(shown)
        if rest := marks.feed("", final=True):
            yield draft.say(rest)
        draft.abstained = abstention(draft.retrieval.question.text) in draft.text
        if form is not None and (known := form.citations.get(draft.text.strip())):
            draft.citations = (known,)
        elif form is not None:
            draft.citations = cite_piece(draft.text, draft.retrieval.question, draft.chunks)
        else:
            draft.citations = find_citations(draft.text, draft.chunks)
        if not draft.citations and not draft.abstained:
            draft.citations = attribute(draft.text, draft.chunks)


def _why_empty(retrieval: Retrieval) -> str:
    if retrieval.chunks:
        return "the passages do not fit into the chat model's context beside the answer."
    if retrieval.num_dropped:
        return f"{retrieval.num_dropped} passages were found, but none reaches the threshold."
    return "the knowledge base holds no passage for this question."
