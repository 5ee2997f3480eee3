"""The stream of one chat answer: first the role, then what is new, then the reason of the end alone, then the usage.

Knows the order of chunks and what waits for the next one; shapes are ``chat_shapes``', bytes ``chat_chunks``' business.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from carrel.outputs import CompletionOutput, LogprobsOnePosition, MessageDelta, RequestOutput

from carrel_server.chat_call import ChatCall
from carrel_server.chat_chunks import ChunkWriter
from carrel_server.reasoning_tokens import ReasoningCounter
from carrel_server.sse import EventStream, frame
from carrel_server.usage import Usage


@dataclass(slots=True)
class ChoiceState:
    """What one choice has not sent yet: tokens whose bytes are no whole character have no text."""

    index: int
    counter: ReasoningCounter
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[LogprobsOnePosition] = field(default_factory=list)
    has_calls: bool = False
    ended: bool = False


class ChatStream:
    """Turns the outputs of one call into bytes: no chunk for bytes that are held back, none that says nothing."""

    def __init__(self, call: ChatCall) -> None:
        body = call.body
        self._call, self._shape = call, call.shape
        self._writer = ChunkWriter(call.head, call.num_choices, has_usage=body.include_usage)
        self._choices = [
            ChoiceState(index, ReasoningCounter(call.hosted.tokenizer)) for index in range(call.num_choices)
        ]
        options = body.stream_options
        self._counts_each = body.include_usage and options is not None and options.continuous_usage_stats
        self._is_plain = not (body.logprobs or body.return_token_ids or self._counts_each)
        self._usage = Usage()
        self._last: RequestOutput | None = None

    @property
    def opens_at_once(self) -> bool:
        """Whether the first chunks need nothing of the engine's first output."""
        return not (self._counts_each or self._call.body.return_token_ids)

    def opening(self, output: RequestOutput | None = None) -> bytes:
        """The role of each choice, and what the answer begins with if that was to be echoed."""
        ids = self._call.body.return_token_ids and output is not None
        top = {"prompt_token_ids": output.prompt_token_ids} if ids and output is not None else None
        if output is not None:
            self._usage.add_prompt(output)
        chunks = []
        for choice in self._choices:
            chunks.append(
                self._writer.choice(choice.index, {"role": "assistant", "content": ""}, usage=self._now(), top=top)
            )
            if self._shape.echo:
                chunks.append(self._writer.choice(choice.index, {"content": self._shape.echo}, usage=self._now()))
        return b"".join(chunks)

    def chunks(self, output: RequestOutput) -> bytes:
        """The chunks for one output of the engine; empty if it shows nothing."""
        if self._last is None and self.opens_at_once:
            self._usage.add_prompt(output)
        self._last = output
        self._usage.count_tokens(output)
        return b"".join([piece for choice in output.outputs for piece in self._choice(choice)])

    def closing(self) -> bytes:
        """Counts the request, and tells the usage to those who asked."""
        call, last = self._call, self._last
        self._usage.reasoning_tokens = sum(choice.counter.count for choice in self._choices)
        if last is not None:
            num_tokens = self._usage.completion_tokens
            call.service.metrics.finished(call.hosted.names[0], last, num_tokens, len(self._choices))
        return self._writer.usage(self._usage.as_dict()) if call.body.include_usage else b""

    def _choice(self, choice: CompletionOutput) -> list[bytes]:
        state, delta = self._choices[choice.index], self._shape.news(choice)
        state.counter.add(choice)
        if self._is_plain:
            pieces = self._plain(state.index, delta)
        else:
            state.token_ids += choice.token_ids
            state.logprobs += choice.logprobs or []
            pieces = [self._full(state, each) for each in self._shape.deltas(delta)]
        state.has_calls = state.has_calls or bool(delta.tool_calls)
        if choice.finish_reason is not None and not state.ended:  # it may stand in later outputs of its siblings, too
            state.ended = True
            pieces.append(self._end(state, choice))
        return pieces

    def _plain(self, index: int, delta: MessageDelta) -> list[bytes]:
        if delta.content and not delta.reasoning and not delta.tool_calls:
            return [self._writer.text(index, delta.content)]
        return [self._writer.delta(index, each) for each in self._shape.deltas(delta)]

    def _full(self, state: ChoiceState, delta: dict[str, Any], **end: Any) -> bytes:
        """A chunk with all that waited for one."""
        token_ids, state.token_ids = state.token_ids, []
        positions, state.logprobs = state.logprobs, []
        logprobs = self._call.logprobs(token_ids, positions) if positions else None
        extra: dict[str, Any] = {"token_ids": token_ids} if self._call.body.return_token_ids else {}
        return self._writer.choice(state.index, delta, logprobs=logprobs, usage=self._now(), **extra, **end)

    def _end(self, state: ChoiceState, choice: CompletionOutput) -> bytes:
        """An empty delta; log probabilities of tokens without text, such as the end token, come with it."""
        reason = self._shape.finish_reason(choice.finish_reason, has_calls=state.has_calls)
        return self._full(state, {}, finish_reason=reason, stop_reason=choice.stop_reason)

    def _now(self) -> dict[str, Any] | None:
        return self._usage.as_dict() if self._counts_each else None


async def chat_chunks(call: ChatCall, outputs: AsyncIterator[tuple[int, RequestOutput]]) -> AsyncGenerator[bytes, None]:
    """The whole stream but for ``[DONE]``; one piece holds the chunks of one output."""
    stream = ChatStream(call)
    is_open = stream.opens_at_once
    if is_open:
        yield stream.opening()
    async for _, output in outputs:
        if not is_open:
            is_open = True
            yield stream.opening(output)
        if chunks := stream.chunks(output):
            yield chunks
    if end := stream.closing():
        yield end


class FramedStream(EventStream):
    """An event stream whose events are frames already."""

    def encode(self, event: Any) -> bytes:
        return event if isinstance(event, bytes) else frame(event)
