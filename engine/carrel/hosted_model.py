"""One model of a host, as callers see it: names, limits, tokenizer. Knows no weights and no device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from carrel.config import Ability, Task
from carrel.errors import ChatTemplateError, UnsupportedTaskError
from carrel.models.config import ModelConfig

if TYPE_CHECKING:  # an engine of token ids needs neither
    from carrel.chat_template import ChatTemplate
    from carrel.structured_output import GrammarCompiler
    from carrel.tokenizer import Tokenizer

RerankerKind = Literal["cross-encoder", "bi-encoder"]


@dataclass(frozen=True, kw_only=True)
class HostedModel:
    """A hosted model. Two of them may share one runner: an embedder, and the same weights as a bi-encoder reranker."""

    key: str  # its first name; unique in the host
    runner_key: str  # whose weights answer: the ``model`` of engine requests
    names: tuple[str, ...]  # every name that callers may use
    task: Task
    folder: Path
    config: ModelConfig
    loaded_tokenizer: Tokenizer | None  # None: the engine was opened with skip_tokenizer_init
    chat_template: ChatTemplate | None
    max_model_len: int  # tokens of prompt and output together
    eos_token_ids: frozenset[int] = frozenset()
    matryoshka: bool = False  # its vectors may be cut to fewer dimensions
    tool_call_parser: str | None = None  # how it writes tool calls; None: it is not known to write any
    reasoning_parser: str | None = None  # how it writes its thoughts; None: it has none

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, or a clear error where there is none."""
        if self.loaded_tokenizer is None:
            raise UnsupportedTaskError(
                f"{self.key} was opened with skip_tokenizer_init, so the engine takes and gives token ids alone; "
                "open it without, to use text.",
                param="model",
            )
        return self.loaded_tokenizer

    @cached_property
    def grammar_compiler(self) -> GrammarCompiler:
        """Compiles the forms that answers are held to. Takes about a second for 150,000 tokens, the first time."""
        from carrel.structured_output import GrammarCompiler  # seldom needed

        return GrammarCompiler(self.tokenizer, self.config.vocab_size, self.eos_token_ids)

    @cached_property
    def max_prompt_characters(self) -> int | None:
        """Longer texts fit for certain not, and need not be tokenized; None if a token may stand for any number of
        characters. Generous, as a normaliser may make some characters one."""
        if not (self.tokenizer.is_byte_level or self.tokenizer.has_byte_fallback):
            return None
        longest: int = max(map(len, self.tokenizer.backend.get_vocab()))
        return 4 * longest * self.max_model_len

    @property
    def embedding_dim(self) -> int | None:
        """Size of the vectors; None if the model makes none."""
        return self.config.embedding_dim

    @property
    def reranker_kind(self) -> RerankerKind | None:
        """How it scores a pair: "cross-encoder" reads both texts at once, "bi-encoder" compares their vectors."""
        if self.config.task == "rerank":
            return "cross-encoder"
        return "bi-encoder" if self.config.task == "embedding" else None

    @property
    def has_spans(self) -> bool:
        """Whether it says where in a document the answer stands, as ``LLM.extract`` wants to know."""
        return self.config.has_spans

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of what a classifier, or a cross-encoder, gives a logit for; empty for other models."""
        return self.config.labels

    def can(self, ability: Ability) -> bool:
        """True if the model does that. An embedder can also rank, by the cosine of vectors."""
        if ability == "classify":
            return bool(self.labels)
        if ability == "extract":
            return self.has_spans
        if ability == "pooling":
            return self.task != "chat"
        return self.task == ability or (ability == "rerank" and self.reranker_kind is not None)

    def is_made_for(self, ability: Ability) -> bool:
        """True if that is what its files say, and not something that it can do as well."""
        if ability == "classify":
            return len(self.labels) > 1
        return self.task == ability and (ability != "rerank" or len(self.labels) < 2)

    def require_chat_template(self) -> ChatTemplate:
        """The template, or a clear error for models that have none."""
        if self.chat_template is None:
            raise ChatTemplateError(
                f"{self.key} has no chat template, so it takes no messages. Use completions (LLM.generate), "
                "or give a template (--chat-template, or chat_template=)."
            )
        return self.chat_template
