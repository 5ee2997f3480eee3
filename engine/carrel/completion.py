"""One completion as text: detokenized, cut at stop strings, a chat's taken apart; and its log probabilities.

Knows one child request. Text runs through stop strings first, then through the parser of thoughts and tool calls; at
the end what they hold back runs the same way.
"""

from __future__ import annotations

from carrel.detokenizer import make_detokenizer
from carrel.logprobs import named_logprobs
from carrel.outputs import CompletionOutput, FinishReason, LogprobsOnePosition
from carrel.params import SamplingParams
from carrel.parsers.base import AnswerFormat
from carrel.parsers.message_fold import MessageFold
from carrel.step import EngineOutput, TokenLogprobs
from carrel.stop_strings import StopStrings
from carrel.tokenizer import Tokenizer


class Completion:
    """Takes the engine's tokens in and gives :class:`CompletionOutput` out, whole or only what is new."""

    def __init__(
        self,
        index: int,
        tokenizer: Tokenizer,
        prompt_token_ids: list[int],
        params: SamplingParams,
        answer: AnswerFormat | None = None,
    ) -> None:
        self._index = index
        self._tokenizer = tokenizer
        self._params = params
        self._detokenizer = make_detokenizer(
            tokenizer,
            prompt_token_ids,
            skip_special_tokens=params.skip_special_tokens,
            kept_special_ids=answer.kept_special_ids if answer else frozenset(),
        )
        self._parser = answer.make_parser() if answer else None
        self._message = MessageFold()
        self._stop = StopStrings(params.stop_strings, include_in_output=params.include_stop_str_in_output)
        self._pieces: list[str] = []
        self._logprobs: list[LogprobsOnePosition] | None = None if params.logprobs is None else []
        self._num_shown_pieces = self._num_shown_tokens = 0
        self._end_shown = False
        self.token_ids: list[int] = []
        self.cumulative_logprob: float | None = None if params.logprobs is None else 0.0
        self.finish_reason: FinishReason | None = None
        self.stop_reason: int | str | None = None

    def feed(self, output: EngineOutput) -> None:
        """Append what the engine made. After a stop string, whatever still comes is dropped."""
        if self.finish_reason is not None:
            return
        # The token that ended the text is no part of it, unless the caller wants to see what stopped it.
        hides_last = output.finish_reason == "stop" and not self._params.include_stop_str_in_output
        last = len(output.new_token_ids) - 1
        for i, token_id in enumerate(output.new_token_ids):
            self._append_token(token_id, output.logprobs[i] if output.logprobs else None)
            if not (hides_last and i == last):
                self._append_text(self._detokenizer.push([token_id]))
            if self._stop.matched is not None:
                self._finish("stop", self._stop.matched)
                return
        if output.finish_reason is not None:
            self._end(output.finish_reason, output.stop_reason)

    @property
    def has_news(self) -> bool:
        """True if text, or the end, was not taken yet."""
        return self._num_shown_pieces < len(self._pieces) or (self.finish_reason is not None and not self._end_shown)

    def whole(self) -> CompletionOutput:
        """Everything so far."""
        self._mark_shown()
        logprobs = None if self._logprobs is None else list(self._logprobs)
        output = self._output("".join(self._pieces), list(self.token_ids), logprobs)
        output.message = self._message.message() if self._parser else None
        return output

    def delta(self) -> CompletionOutput:
        """What came since the last call."""
        tokens, pieces = self._num_shown_tokens, self._num_shown_pieces
        logprobs = None if self._logprobs is None else self._logprobs[tokens:]
        output = self._output("".join(self._pieces[pieces:]), self.token_ids[tokens:], logprobs)
        output.delta = self._message.take() if self._parser else None
        self._mark_shown()
        return output

    def _mark_shown(self) -> None:
        self._num_shown_tokens, self._num_shown_pieces = len(self.token_ids), len(self._pieces)
        self._end_shown = self.finish_reason is not None

    def _output(self, text: str, token_ids: list[int], logprobs: list[LogprobsOnePosition] | None) -> CompletionOutput:
        return CompletionOutput(
            index=self._index,
            text=text,
            token_ids=token_ids,
            cumulative_logprob=self.cumulative_logprob,
            logprobs=logprobs,
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
        )

    def _append_token(self, token_id: int, logprobs: TokenLogprobs | None) -> None:
        self.token_ids.append(token_id)
        if logprobs is not None and self._logprobs is not None:
            self._logprobs.append(named_logprobs(self._tokenizer, logprobs))
            self.cumulative_logprob = (self.cumulative_logprob or 0.0) + logprobs.logprobs[0]

    def _append_text(self, text: str) -> None:
        # Text of the first min_tokens cannot stop it.
        checked = text if len(self.token_ids) < self._params.min_tokens else self._stop.push(text)
        self._release(checked)

    def _release(self, text: str) -> None:
        """Text that is certain: it can be shown."""
        if not text:
            return
        self._pieces.append(text)
        if self._parser is not None:
            self._message.add(self._parser.push(text))

    def _end(self, reason: FinishReason, stop_reason: int | str | None) -> None:
        """The engine ended it: what was held comes out, and may complete a stop string."""
        self._append_text(self._detokenizer.flush())
        if self._stop.matched is not None:
            self._finish("stop", self._stop.matched)
            return
        self._release(self._stop.flush())
        self._finish(reason, stop_reason)

    def _finish(self, reason: FinishReason, stop_reason: int | str | None) -> None:
        self.finish_reason, self.stop_reason = reason, stop_reason
        if self._parser is not None:
            self._message.add(self._parser.flush())
