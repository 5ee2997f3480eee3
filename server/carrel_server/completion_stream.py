"""The stream of a completion over all its prompts and choices: the echo, text, the end of each choice, the usage.

Knows the order of chunks and what waits for the next one; what was asked is ``completion_call``'s business.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from carrel.outputs import CompletionOutput, LogprobsOnePosition, RequestOutput

from carrel_server.completion_call import CompletionCall, Positions
from carrel_server.json_response import made
from carrel_server.logprobs import num_entries
from carrel_server.sse import frame
from carrel_server.usage import Usage


@dataclass(slots=True)
class ChoiceState:
    """What one choice has not sent yet: tokens whose bytes are no whole character have no text."""

    index: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[LogprobsOnePosition] | None = None
    offset: int = 0  # characters of the tokens that were sent
    ended: bool = False


class CompletionStream:
    """Turns the outputs of one call into chunks."""

    def __init__(self, call: CompletionCall) -> None:
        self._call = call
        self._usage = Usage()
        num_prompts = len(call.body.prompts)
        self._states = [ChoiceState(index) for index in range(num_prompts * call.num_choices)]
        self._num_tokens = [0] * num_prompts  # generated so far
        self._held: list[list[RequestOutput]] = [[] for _ in range(num_prompts)]
        self._is_open = [False] * num_prompts
        options = call.body.stream_options
        self._counts_each = call.body.include_usage and options is not None and options.continuous_usage_stats

    def frames(self, number: int, output: RequestOutput) -> bytes:
        """:meth:`chunks` as bytes."""
        return b"".join(map(frame, self.chunks(number, output)))

    def chunks(self, number: int, output: RequestOutput) -> list[dict[str, Any]]:
        """The chunks for one output of one prompt; none while the prompt's log probabilities are awaited.

        One sequence of a prompt computes them for all, and another may be faster.
        """
        held = self._held[number]
        held.append(self._call.shown(output))
        if not self._is_open[number]:
            knows_prompt = output.prompt_logprobs is not None or output.finished
            if self._call.echoes_logprobs and not knows_prompt:
                return []
            chunks = self._opening(number, output)
        else:
            chunks = []
        self._held[number] = []
        return chunks + [chunk for each in held for chunk in self._chunks(number, each)]

    def closing(self) -> dict[str, Any] | None:
        """The usage, for those who asked."""
        return {**self._call.head, "choices": [], "usage": self._usage.as_dict()} if self._includes_usage else None

    def _opening(self, number: int, output: RequestOutput) -> list[dict[str, Any]]:
        """Counts the prompt, and echoes it into each of its choices."""
        call, body = self._call, self._call.body
        self._is_open[number] = True
        self._usage.add_prompt(output)
        if not (body.echo or body.return_token_ids):
            return []
        text, ids = call.echo(body.prompts[number], output), output.prompt_token_ids
        extra: dict[str, Any] = {"prompt_token_ids": ids, "token_ids": []} if body.return_token_ids else {}
        first, chunks = number * call.num_choices, []
        for state in self._states[first : first + call.num_choices]:
            positions = output.prompt_logprobs if call.echoes_logprobs else None
            logprobs = None if positions is None else self._logprobs(state, ids, positions)
            chunks.append(self._chunk(state.index, text, logprobs=logprobs, **extra))
        return chunks

    def _chunks(self, number: int, output: RequestOutput) -> list[dict[str, Any]]:
        call = self._call
        self._usage.add_tokens(output)
        self._num_tokens[number] += sum(len(choice.token_ids) for choice in output.outputs)
        chunks: list[dict[str, Any]] = []
        for choice in output.outputs:
            chunks += self._choice(self._states[number * call.num_choices + choice.index], choice)
        if output.finished:
            name, num_tokens = call.hosted.names[0], self._num_tokens[number]
            call.service.metrics.finished(name, output, num_tokens, call.num_choices)
        return chunks

    def _choice(self, state: ChoiceState, choice: CompletionOutput) -> list[dict[str, Any]]:
        """No chunk for bytes that are held back, one for text, one more for the end."""
        state.token_ids += choice.token_ids
        if choice.logprobs is not None:
            state.logprobs = [*(state.logprobs or []), *choice.logprobs]
        chunks = [self._full(state, choice.text)] if choice.text else []
        if choice.finish_reason is not None and not state.ended:  # it may stand in later outputs of its siblings, too
            state.ended = True
            end = {"finish_reason": choice.finish_reason, "stop_reason": choice.stop_reason}
            chunks.append(self._full(state, "", **end))
        return chunks

    def _full(self, state: ChoiceState, text: str, **end: Any) -> dict[str, Any]:
        """A chunk with all that waited for one."""
        token_ids, state.token_ids = state.token_ids, []
        positions, state.logprobs = state.logprobs, None
        logprobs = self._logprobs(state, token_ids, positions) if positions else None
        extra: dict[str, Any] = {"token_ids": token_ids} if self._call.body.return_token_ids else {}
        return self._chunk(state.index, text, logprobs=logprobs, **extra, **end)

    def _logprobs(self, state: ChoiceState, token_ids: list[int], positions: Positions) -> dict[str, Any] | None:
        if self._call.body.logprobs is None:
            return None
        logprobs = self._call.logprobs(token_ids, positions, offset=state.offset)
        state.offset = logprobs["text_offset"][-1] + len(logprobs["tokens"][-1])
        return logprobs

    def _chunk(self, index: int, text: str, **extra: Any) -> dict[str, Any]:
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": None, **extra}
        event = {**self._call.head, "choices": [choice]}
        if self._includes_usage:
            event["usage"] = self._usage.as_dict() if self._counts_each else None
        return event

    @property
    def _includes_usage(self) -> bool:
        return self._call.body.include_usage


async def completion_chunks(
    call: CompletionCall, outputs: AsyncIterator[tuple[int, RequestOutput]]
) -> AsyncGenerator[bytes, None]:
    """The whole stream but for ``[DONE]``; one piece holds the chunks of one output."""
    stream = CompletionStream(call)
    async for number, output in outputs:
        write = partial(stream.frames, number, output)
        if frames := await made(write, num_entries(output, call.body.logprobs)):  # an echoed prompt may be long
            yield frames
    if (end := stream.closing()) is not None:
        yield frame(end)
