"""Who answers in ``carrel chat``: a model in this process. Knows the engine's ``LLM``; knows no terminal."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from carrel.params import RequestOutputKind, SamplingParams

from carrel_server.sampling_defaults import read_sampling_defaults
from carrel_server.schemas.thinking import switch

if TYPE_CHECKING:
    from carrel import LLM

Messages = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Piece:
    """A piece of an answer."""

    text: str = ""
    thought: str = ""
    finish_reason: str | None = None  # in the last piece


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """How to answer. None: as the model's author, or the server, says."""

    max_tokens: int
    temperature: float | None = None
    seed: int | None = None
    think: bool | None = None

    def sampling(self) -> dict[str, Any]:
        named = {"max_tokens": self.max_tokens, "temperature": self.temperature, "seed": self.seed}
        return {name: value for name, value in named.items() if value is not None}

    def template_kwargs(self) -> dict[str, Any]:
        return {} if self.think is None else switch(self.think)


class Talker(Protocol):
    """One side of a conversation."""

    name: str  # of the model
    place: str  # where it computes, for people

    def answer(self, messages: Messages) -> Generator[Piece, None, None]:
        """The answer as it comes. Closing the generator ends the work.

        Raises:
            CarrelError: the messages are refused, or nobody answers.
        """
        ...


class LocalTalker:
    """A model in this process."""

    def __init__(self, llm: LLM, wishes: Wishes) -> None:
        hosted = llm.host.get(None, "chat")
        self.name = hosted.names[0]
        self.place = f"{llm.host.device}, up to {hosted.max_model_len} tokens"
        self._llm, self._wishes = llm, wishes
        self._defaults = read_sampling_defaults(hosted.folder)

    def answer(self, messages: Messages) -> Generator[Piece, None, None]:
        kind = RequestOutputKind.DELTA
        params = SamplingParams(**{**self._defaults, **self._wishes.sampling()}, output_kind=kind)
        outputs = self._llm.stream_chat(messages, params, chat_template_kwargs=self._wishes.template_kwargs())
        with closing(outputs):  # type: ignore[type-var]  # a generator, which the face calls an iterator
            for output in outputs:
                choice = output.outputs[0]
                delta = choice.delta
                text, thought = (choice.text, "") if delta is None else (delta.content, delta.reasoning)
                yield Piece(text, thought, choice.finish_reason)
