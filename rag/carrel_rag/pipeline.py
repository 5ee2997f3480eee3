"""The whole of it: documents in, questions in, answers with citations out. Ties the rooms together."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Unpack, cast

from carrel.errors import InvalidParamsError

from carrel_rag.answerer import Answerer, AnswerMode, Writing
from carrel_rag.bridge import iterate_in_thread
from carrel_rag.embedding_reranker import EmbeddingReranker
from carrel_rag.errors import KnowledgeBaseClosedError
from carrel_rag.extractive import ExtractiveConfig
from carrel_rag.index import VectorIndex
from carrel_rag.ingest import Ingester, Source
from carrel_rag.knowledge_base import DEFAULT_NAME, check_fingerprint, open_store
from carrel_rag.loaders import Limits
from carrel_rag.loaders.extracted import clean_text
from carrel_rag.options import (
    AskOptions,
    check_metadata,
    check_mode,
    check_question,
    context_tokens,
    default_splitter,
    fingerprint,
)
from carrel_rag.pieces import QUOTE_TOKENS
from carrel_rag.protocols import ChatModel, Embedder, Reranker
from carrel_rag.retriever import Retrieval, Retriever, RetrieverConfig
from carrel_rag.schema import (
    Answer,
    AnswerEvent,
    Document,
    DocumentInfo,
    Event,
    FileStatus,
    IngestReport,
    MetadataValue,
    Mode,
    RetrievedChunk,
)
from carrel_rag.score_cache import cached
from carrel_rag.splitter import SplitterConfig
from carrel_rag.store import Store
from carrel_rag.store_schema import document_id

if TYPE_CHECKING:
    from carrel import LLM

_ANSWER_TOKENS = 512


class RAGPipeline:
    """Answers questions from documents, with citations.

    Use :meth:`open`. All methods may be called from many threads, questions while documents are added::

        with RAGPipeline.open("kb") as rag:
            rag.add("docs/")
            answer = rag.ask("How many lanterns burned colza oil?")
            print(answer.text, answer.citations[0].quote)
    """

    def __init__(
        self,
        store: Store,
        *,
        embedder: Embedder,
        reranker: Reranker | None,
        chat: ChatModel | None,
        mode: Mode,
        splitter: SplitterConfig,
        retriever: RetrieverConfig,
        extractive: ExtractiveConfig,
        limits: Limits,
        owned_llm: LLM | None = None,
    ) -> None:
        self._store = store
        self._chat = chat
        self._mode = mode
        self._owned_llm = owned_llm
        self._closed = False
        passages = cached(reranker) if reranker is not None else None  # None: their stored vectors judge
        sentences = passages or cached(EmbeddingReranker(embedder))
        self._index = VectorIndex(store, embedder.dim)
        self._ingester = Ingester(store, self._index, embedder, splitter, context_tokens(embedder), limits)
        self._retriever = Retriever(store, self._index, embedder, passages, retriever)
        self._answerer = Answerer(sentences, chat, extractive)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        llm: LLM | None = None,
        name: str = DEFAULT_NAME,
        mode: Mode = "auto",
        create: bool = True,
        embedder: Embedder | None = None,
        reranker: Reranker | None = None,
        chat: ChatModel | None = None,
        splitter: SplitterConfig | None = None,
        retriever: RetrieverConfig | None = None,
        extractive: ExtractiveConfig | None = None,
        limits: Limits | None = None,
    ) -> RAGPipeline:
        """The knowledge base ``path/name``, made if it is missing (unless ``create`` is false).

        ``llm`` brings the models and stays open; without it, and without an ``embedder`` of one's own, the bundled
        starter models are opened, and closed with the pipeline. Mode ``auto`` is extractive when there is no chat model
        or only the starter reader, generative otherwise.

        Raises:
            KnowledgeBaseMismatchError: it was built with another embedding model or chunk size.
            KnowledgeBaseError: ``path`` or ``name`` cannot hold one, or ``llm`` has no embedding model.
        """
        check_mode(mode)
        store = open_store(Path(path), name, create=create)
        owned: LLM | None = None
        try:
            if embedder is None:
                from carrel_rag.engine_models import bind_engine, open_starters

                owned = None if llm is not None else open_starters()
                models = bind_engine(llm if llm is not None else cast("LLM", owned))
                embedder, reranker, chat = models.embedder, reranker or models.reranker, chat or models.chat
            splitter = splitter or default_splitter(embedder)
            check_fingerprint(store, fingerprint(embedder, splitter), f"the knowledge base {name!r} in {path}")
            return cls(
                store,
                embedder=embedder,
                reranker=reranker,
                chat=chat,
                mode=mode,
                splitter=splitter,
                retriever=retriever or RetrieverConfig(),
                extractive=extractive or ExtractiveConfig(),
                limits=limits or Limits(),
                owned_llm=owned,
            )
        except BaseException:
            store.close()
            if owned is not None:
                owned.close()
            raise

    # ── documents ─────────────────────────────────────────────────────────────────────────────────────────────────

    def add(
        self,
        sources: Source | Iterable[Source],
        *,
        metadata: Mapping[str, MetadataValue] | None = None,
        use_tqdm: bool = True,
        on_file: Callable[[FileStatus], None] | None = None,
    ) -> IngestReport:
        """Indexes files, folders and :class:`Document` texts; ``metadata`` goes to each of them. ``on_file`` is told
        of each as soon as it is stored.

        A file that is there already with the same content is left alone, a changed one is replaced. A file that cannot
        be read stands in the report with its reason, and the others are indexed.

        Raises:
            SourceNotFoundError: a path does not exist.
        """
        self._check_open()
        return self._ingester.add(sources, metadata=metadata, progress=use_tqdm, on_file=on_file)

    def documents(self) -> list[DocumentInfo]:
        """All documents, by source."""
        self._check_open()
        with self._store.snapshot() as now:
            return now.documents()

    def document_text(self, document: DocumentInfo | str) -> str | None:
        """The text that offsets of chunks and citations count in; None if there is no such document."""
        self._check_open()
        doc_id = self._find_id(document)
        with self._store.snapshot() as now:
            return now.document_text(doc_id)

    def delete(self, document: DocumentInfo | Document | str | os.PathLike[str]) -> bool:
        """Removes a document, given by its info, id, source or path; False if there was none."""
        self._check_open()
        doc_id = self._find_id(document)
        return self._index.commit(lambda: self._store.delete(doc_id)) is not None

    def _find_id(self, document: DocumentInfo | Document | str | os.PathLike[str]) -> str:
        if isinstance(document, DocumentInfo):
            return document.id
        text = document.source if isinstance(document, Document) else os.fspath(document)
        with self._store.snapshot() as now:
            for candidate in (text, document_id(text), document_id(str(Path(text).resolve()))):
                if now.find_document(candidate) is not None:
                    return candidate
        return text

    # ── questions ─────────────────────────────────────────────────────────────────────────────────────────────────

    def retrieve(
        self,
        question: str,
        *,
        top_k: int | None = None,
        min_score: float | None = None,
        where: Mapping[str, MetadataValue] | None = None,
    ) -> tuple[RetrievedChunk, ...]:
        """The best passages, best first; those below ``min_score`` are left out. ``where`` filters by metadata."""
        return self._retrieve(question, top_k, min_score, where).chunks

    def ask(self, question: str, **options: Unpack[AskOptions]) -> Answer:
        """An answer with citations; ``abstained`` when the documents hold none. Options as in :meth:`stream`."""
        for event in self.stream(question, **options):
            if isinstance(event, AnswerEvent):
                return event.answer
        raise AssertionError("a stream ends with its answer")

    def stream(
        self,
        question: str,
        *,
        top_k: int | None = None,
        min_score: float | None = None,
        where: Mapping[str, MetadataValue] | None = None,
        mode: Mode | None = None,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        constrain: bool | None = None,
    ) -> Iterator[Event]:
        """Events as they happen, an :class:`AnswerEvent` last. Closing the iterator stops the chat model.

        Args:
            top_k: passages to answer from.
            min_score: passages below are not used.
            where: only documents whose metadata has these values.
            mode: ``generative``, ``extractive`` or ``auto``; None is the pipeline's.
            max_tokens, temperature: of the chat model; max_tokens None is 512 (the starter reader's quotes: 128), or a
                quarter of a small context.
            constrain: hold the chat model to an answer that is a verbatim piece of a passage with its number, or the
                sentence that there is none; None: the starter reader is held to it, other models are free.

        Raises:
            InvalidParamsError: an empty question, an unknown mode, or ``generative`` without a chat model.
        """
        self._check_question(question, top_k, where)
        chosen = self._choose_mode(mode)
        writing = self._writing(max_tokens, temperature, constrain)

        def events() -> Iterator[Event]:
            started = time.perf_counter()
            retrieval = self._retrieve(question, top_k, min_score, where)
            yield from self._answerer.stream(retrieval, chosen, writing, started=started)

        return events()

    async def aask(self, question: str, **options: Unpack[AskOptions]) -> Answer:
        """:meth:`ask` for asyncio; cancelling it stops the chat model."""
        events = self.astream(question, **options)
        answer: Answer | None = None
        async for event in events:
            if isinstance(event, AnswerEvent):
                answer = event.answer
        assert answer is not None, "a stream ends with its answer"
        return answer

    def astream(self, question: str, **options: Unpack[AskOptions]) -> AsyncIterator[Event]:
        """:meth:`stream` for asyncio; leaving the loop over it stops the chat model."""
        return iterate_in_thread(self.stream(question, **options))

    async def aadd(
        self,
        sources: Source | Iterable[Source],
        *,
        metadata: Mapping[str, MetadataValue] | None = None,
        use_tqdm: bool = True,
    ) -> IngestReport:
        """:meth:`add` for asyncio, on a thread."""
        return await asyncio.to_thread(self.add, sources, metadata=metadata, use_tqdm=use_tqdm)

    def _retrieve(
        self, question: str, top_k: int | None, min_score: float | None, where: Mapping[str, MetadataValue] | None
    ) -> Retrieval:
        self._check_question(question, top_k, where)
        return self._retriever.retrieve(clean_text(question), top_k=top_k, min_score=min_score, where=where)

    def _check_question(self, question: str, top_k: int | None, where: Mapping[str, MetadataValue] | None) -> None:
        self._check_open()
        check_question(question, top_k)
        check_metadata(where or {}, "where")

    def _choose_mode(self, mode: Mode | None) -> AnswerMode:
        wanted = check_mode(mode or self._mode)
        if wanted == "auto":
            return "extractive" if self._chat is None or self._chat.is_starter else "generative"
        if wanted == "generative" and self._chat is None:
            raise InvalidParamsError(
                "mode 'generative' needs a chat model: open the pipeline with LLM(model=…).", param="mode"
            )
        return wanted

    def _writing(self, max_tokens: int | None, temperature: float, constrain: bool | None) -> Writing:
        is_starter = self._chat is not None and self._chat.is_starter
        held = is_starter if constrain is None else constrain
        context = self._chat.max_model_len if self._chat is not None else None
        if max_tokens is None:
            most = QUOTE_TOKENS if held and is_starter else _ANSWER_TOKENS  # other models may think first
            max_tokens = most if context is None else min(most, context // 4)
        elif max_tokens < 1 or (context is not None and max_tokens >= context):
            limit = "" if context is None else f" and below the chat model's context of {context} tokens"
            raise InvalidParamsError(f"max_tokens must be at least 1{limit}, got {max_tokens}.", param="max_tokens")
        return Writing(max_tokens=max_tokens, temperature=temperature, constrain=held)

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _check_open(self) -> None:
        if self._closed:
            raise KnowledgeBaseClosedError("the pipeline was closed; open it again with RAGPipeline.open(…).")

    def close(self) -> None:
        """Closes the knowledge base, and the models if the pipeline opened them. May be called again."""
        if self._closed:
            return
        self._closed = True
        self._store.close()
        if self._owned_llm is not None:
            self._owned_llm.close()

    def __enter__(self) -> RAGPipeline:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
