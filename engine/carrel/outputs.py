"""What a caller gets back. The names are vLLM's, so that code written for it reads these objects unchanged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

FinishReason = Literal["stop", "length", "abort", "error"]
FloatArray = npt.NDArray[np.float32]


@dataclass(slots=True)
class Logprob:
    """Natural-log probability of one token, and its rank (1 is the most likely)."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


LogprobsOnePosition = dict[int, Logprob]  # token id → Logprob; the sampled token stands first


@dataclass(slots=True)
class RequestMetrics:
    """Times of one request on the clock of ``time.monotonic()``, in seconds."""

    arrival_time: float
    first_scheduled_time: float | None = None
    first_token_time: float | None = None
    finished_time: float | None = None


@dataclass(slots=True)
class ToolCall:
    """One call that the model asks for; ``arguments`` is JSON text, cut short if the output was."""

    id: str
    name: str
    arguments: str


@dataclass(slots=True)
class ChatMessage:
    """What a model answered in a chat: its thoughts, its words, its calls. A call's text is no part of ``content``."""

    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)


@dataclass(slots=True)
class ToolCallDelta:
    """A piece of a call. Calls come one after another, never interleaved; ``arguments`` of one call concatenate."""

    index: int
    id: str | None = None  # in the first piece of a call, and no other
    name: str | None = None  # in the first piece, whole
    arguments: str = ""


@dataclass(slots=True)
class MessageDelta:
    """What is new of a :class:`ChatMessage`."""

    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCallDelta] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.tool_calls)


@dataclass(slots=True)
class CompletionOutput:
    """One of the ``n`` completions of a prompt.

    ``text`` is all that the model wrote, thoughts and calls included. Of a chat, ``message`` is the same taken apart;
    in the output kind DELTA ``delta`` is what is new of it, and ``message`` is None.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: list[LogprobsOnePosition] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None  # the stop string or the stop token that ended it
    message: ChatMessage | None = None
    delta: MessageDelta | None = None

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(slots=True)
class RequestOutput:
    """The completions of one prompt, so far or finished.

    ``output.outputs[0].text`` is the text; ``output.prompt`` the prompt, rendered by the chat template for a chat.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    num_cached_tokens: int = 0  # prompt tokens found in the prefix cache
    prompt_logprobs: list[LogprobsOnePosition | None] | None = None  # one for each prompt token; the first is None
    truncated: bool = False  # the prompt was longer, and was cut as truncate_prompt_tokens says
    num_generated_tokens: int = 0  # so far, of all sequences, those that best_of does not return included
    metrics: RequestMetrics | None = None


@dataclass(slots=True)
class BeamSearchSequence:
    """One sequence that a beam search found; ``tokens`` and ``text`` begin with the prompt, as in vLLM."""

    tokens: list[int]
    logprobs: list[LogprobsOnePosition]  # of the generated tokens
    cum_logprob: float = 0.0
    text: str | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None  # the end-of-sequence token that ended it


@dataclass(slots=True)
class BeamSearchOutput:
    """The best sequences of one prompt, the best first."""

    sequences: list[BeamSearchSequence]


@dataclass(slots=True)
class EmbeddingOutput:
    embedding: FloatArray  # [dim], fp32

    @property
    def hidden_size(self) -> int:
        return int(self.embedding.shape[0])


@dataclass(slots=True)
class EmbeddingRequestOutput:
    """The vector of one input."""

    request_id: str
    outputs: EmbeddingOutput
    prompt_token_ids: list[int]
    truncated: bool = False
    finished: bool = True


@dataclass(slots=True)
class ClassificationOutput:
    probs: list[float]  # one for each label

    @property
    def num_classes(self) -> int:
        return len(self.probs)


@dataclass(slots=True)
class ClassificationRequestOutput:
    """The probability of each label for one input. The labels' names are ``HostedModel.labels``."""

    request_id: str
    outputs: ClassificationOutput
    prompt_token_ids: list[int]
    truncated: bool = False
    finished: bool = True


@dataclass(slots=True)
class PoolingOutput:
    data: FloatArray  # [dim] vector of an embedding model, or [num_labels] logits of a classifier or reranker


@dataclass(slots=True)
class PoolingRequestOutput:
    """What a model makes of one input, raw."""

    request_id: str
    outputs: PoolingOutput
    prompt_token_ids: list[int]
    truncated: bool = False
    finished: bool = True


@dataclass(slots=True)
class ScoringOutput:
    score: float  # 0..1
    raw_score: float  # the model's own logit, or the cosine of a bi-encoder


@dataclass(slots=True)
class ScoringRequestOutput:
    """The score of one pair of texts."""

    request_id: str
    outputs: ScoringOutput
    prompt_token_ids: list[int]
    finished: bool = True


@dataclass(slots=True)
class RerankResult:
    """One document's place in a ranking; ``index`` is its place in the list that was given."""

    index: int
    document: str
    relevance_score: float  # 0..1
    raw_score: float


@dataclass(slots=True)
class RerankOutput:
    """Documents by descending relevance; equal scores keep the order they were given in."""

    request_id: str
    model: str
    results: list[RerankResult] = field(default_factory=list)
    num_tokens: int = 0


@dataclass(slots=True)
class ExtractionResult:
    """The piece of one document that answers best: ``document[start:end]``.

    A document without tokens has no piece: ``text`` is empty and ``score`` minus infinity.
    """

    index: int  # of the document in the list that was given
    start: int  # in characters of the document
    end: int  # behind the last one
    text: str
    score: float  # how sure the piece is: the logit that the answer starts there plus the one that it ends there
    relevance_score: float  # of the document, 0..1; as RerankResult has it
    raw_score: float


@dataclass(slots=True)
class ExtractionOutput:
    """The best piece of each document, in the order in which the documents were given."""

    request_id: str
    model: str
    results: list[ExtractionResult] = field(default_factory=list)
    num_tokens: int = 0
