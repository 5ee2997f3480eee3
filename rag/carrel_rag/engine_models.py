"""The models of a carrel engine as this package's Protocols: the one file here that knows the engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from carrel.errors import ModelNotFoundError, UnsupportedTaskError
from carrel.params import PoolingParams, RequestOutputKind, SamplingParams
from carrel.structured_params import StructuredOutputsParams

from carrel_rag.errors import KnowledgeBaseError
from carrel_rag.protocols import (
    ChatDelta,
    ChatModel,
    Embedder,
    FloatArray,
    FoundSpan,
    Message,
    Reranker,
    RerankerKind,
)

if TYPE_CHECKING:
    from carrel import LLM
    from carrel.config import Task
    from carrel.hosted_model import HostedModel

_BATCH = 256  # texts handed to the engine at once; it packs them to steps by tokens
_STARTER_READER, _STARTER_RERANKER = "starter/reader", "starter/reranker"


class Models(NamedTuple):
    """What a pipeline works with. Without a reranker the embedder judges; without a chat model answers are quotes.

    ``reranker`` is also None where the engine's is the embedding model itself behind another name: the vectors that are
    stored already give its scores.
    """

    embedder: Embedder
    reranker: Reranker | None
    chat: ChatModel | None


def bind_engine(llm: LLM) -> Models:
    """The models that ``llm`` hosts.

    Raises:
        KnowledgeBaseError: it hosts no embedding model.
    """
    embedding = _hosted(llm, "embedding")
    if embedding is None:
        raise KnowledgeBaseError(
            "a knowledge base needs an embedding model. Open the engine with one: "
            "LLM(model=…, embedding_model='starter/embedding')."
        )
    rerank, chat = _hosted(llm, "rerank"), _hosted(llm, "chat")
    if rerank is not None and rerank.runner_key == embedding.runner_key:
        rerank = None
    return Models(
        EngineEmbedder(llm, embedding),
        _reranker(llm, rerank) if rerank is not None else None,
        EngineChatModel(llm, chat) if chat is not None else None,
    )


def _reranker(llm: LLM, hosted: HostedModel) -> EngineReranker:
    return EngineSpanFinder(llm, hosted) if hosted.has_spans else EngineReranker(llm, hosted)


def open_starters() -> LLM:
    """The bundled starter models; the caller closes them."""
    from carrel import LLM

    return LLM()


def _hosted(llm: LLM, task: Task) -> HostedModel | None:
    try:
        return llm.host.get(None, task)
    except (ModelNotFoundError, UnsupportedTaskError):
        return None


class EngineEmbedder:
    """An embedding model of the engine."""

    def __init__(self, llm: LLM, hosted: HostedModel) -> None:
        self._llm = llm
        self._hosted = hosted

    @property
    def name(self) -> str:
        return self._hosted.names[0]

    @property
    def dim(self) -> int:
        assert self._hosted.embedding_dim is not None, "an embedding model knows its dimension"
        return self._hosted.embedding_dim

    @property
    def max_tokens(self) -> int:
        tokenizer = self._hosted.tokenizer
        longest = max(
            (len(ids) for ids in tokenizer.encode_batch(self._prompts(), add_special_tokens=False)), default=0
        )
        return self._hosted.max_model_len - tokenizer.num_special_tokens - longest

    def _prompts(self) -> list[str]:
        pooling = self._hosted.config.pooling
        return list(pooling.prompts.values()) if pooling is not None else []

    @property
    def fingerprint(self) -> Mapping[str, str]:
        pooling = self._hosted.config.pooling
        return {
            "embedding_model": self._hosted.folder.name if "/" not in self.name else self.name,
            "embedding_dim": str(self.dim),
            "embedding_pooling": "+".join(pooling.modes) if pooling is not None else "",
            "embedding_prompts": "\n".join(self._prompts()),
        }

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self._hosted.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def embed_documents(self, texts: Sequence[str]) -> FloatArray:
        return self._embed(texts, "document")

    def embed_query(self, text: str) -> FloatArray:
        vector: FloatArray = self._embed([text], "query")[0]
        return vector

    def _embed(self, texts: Sequence[str], input_type: Literal["query", "document"]) -> FloatArray:
        params = PoolingParams(input_type=input_type, truncate_prompt_tokens=-1, normalize=True)
        rows: list[FloatArray] = []
        for start in range(0, len(texts), _BATCH):
            outputs = self._llm.embed(texts[start : start + _BATCH], params, model=self.name, use_tqdm=False)
            rows.extend(output.outputs.embedding for output in outputs)
        return np.stack(rows) if rows else np.zeros((0, self.dim), np.float32)


class EngineReranker:
    """A rerank model of the engine."""

    def __init__(self, llm: LLM, hosted: HostedModel) -> None:
        self._llm = llm
        self._hosted = hosted

    @property
    def name(self) -> str:
        return self._hosted.names[0]

    @property
    def kind(self) -> RerankerKind:
        if self._hosted.reranker_kind == "bi-encoder":
            return "bi-encoder"
        return (
            "small-cross-encoder" if _STARTER_RERANKER in (*self._hosted.names, self._hosted.key) else "cross-encoder"
        )

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        if not texts:
            return []
        results = self._llm.rerank(self._cut(query), list(texts), model=self.name, use_tqdm=False).results
        scores = [0.0] * len(texts)
        for result in results:
            scores[result.index] = result.raw_score if self.kind == "bi-encoder" else result.relevance_score
        return scores

    def _cut(self, query: str) -> str:
        """A question too long for the model loses its end: a pasted page is still a question."""
        tokenizer = self._hosted.tokenizer
        room = self._hosted.max_model_len - tokenizer.num_special_tokens
        limit = room if self.kind == "bi-encoder" else room // 2  # a cross-encoder reads the passage beside it
        while (count := len(tokenizer.encode(query, add_special_tokens=False))) > limit:
            query = query[: min(len(query) - 1, len(query) * limit // count)]
        return query


class EngineSpanFinder(EngineReranker):
    """A rerank model that also says where the answer stands; one forward pass tells both."""

    def find_spans(self, question: str, texts: Sequence[str]) -> list[FoundSpan]:
        if not texts:
            return []
        results = self._llm.extract(self._cut(question), list(texts), model=self.name, use_tqdm=False).results
        return [FoundSpan(found.start, found.end, found.score, found.relevance_score) for found in results]


class EngineChatModel:
    """A chat model of the engine."""

    def __init__(self, llm: LLM, hosted: HostedModel) -> None:
        self._llm = llm
        self._hosted = hosted

    @property
    def name(self) -> str:
        return self._hosted.names[0]

    @property
    def is_starter(self) -> bool:
        return _STARTER_READER in (*self._hosted.names, self._hosted.key)

    @property
    def max_model_len(self) -> int:
        return self._hosted.max_model_len

    def count_message_tokens(self, messages: Sequence[Message]) -> int:
        template = self._hosted.require_chat_template()
        text = template.render([dict(message) for message in messages], None, add_generation_prompt=True)
        return len(self._hosted.tokenizer.encode(text, add_special_tokens=False))

    def stream_chat(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float, grammar: str | None = None
    ) -> Iterator[ChatDelta]:
        params = SamplingParams(
            max_tokens=max_tokens,
            temperature=temperature,
            output_kind=RequestOutputKind.DELTA,
            structured_outputs=StructuredOutputsParams(grammar=grammar) if grammar is not None else None,
        )
        count = 0
        for output in self._llm.stream_chat([dict(message) for message in messages], params, model=self.name):
            completion = output.outputs[0]
            count += len(completion.token_ids)
            said = completion.text if completion.delta is None else completion.delta.content  # thoughts are no answer
            yield ChatDelta(said, len(output.prompt_token_ids), count, completion.finish_reason)
