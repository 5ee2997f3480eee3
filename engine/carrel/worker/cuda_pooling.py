"""Runs embedders and cross-encoders on a GPU: packed inputs in one copy, results in one copy, nothing waited for.

Inputs lie end to end without padding, sorted by length, so that programs that run at the same time have about the same
work. The same code runs on a CPU, at once, where tests compare it with the plain runners. Knows no scheduling.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain

import numpy as np
import torch

from carrel.layers.attention_metadata import AttentionMetadata
from carrel.layers.attention_plan import AttentionPlan
from carrel.models.decoder import Decoder
from carrel.step import PendingBatch, RequestResult, ScheduledRequest
from carrel.worker.device_stream import DeviceStream
from carrel.worker.input_buffers import InputBuffers, Layout, Section, Tensors
from carrel.worker.largest_step import pooling_steps
from carrel.worker.measured_memory import measure_peak
from carrel.worker.model_runner import EmbeddingRunner, PoolingRunner, RerankRunner
from carrel.worker.pending_step import PendingStep
from carrel.worker.step_limits import StepLimits
from carrel.worker.vectors import PooledStep
from carrel.worker.warm_up import pooling_warm_ups


class PoolingInputs:
    """The buffers of one model; they grow with an input that is longer than any before."""

    def __init__(self, stream: DeviceStream) -> None:
        self._stream = stream
        self._buffers = InputBuffers(stream, 0)

    def stage(self, items: Sequence[ScheduledRequest]) -> Tensors:
        """Send ``items``, whole inputs in their order: token_ids, positions, token_types, cu_seqlens_q and seq_lens."""
        requests = [item.request for item in items]
        lengths = np.array([item.num_scheduled_tokens for item in items], dtype=np.int64)
        ends = np.cumsum(lengths)
        total = int(ends[-1])
        layout = _layout(total, len(items))
        self.make_room(layout.num_words)
        arrays = self._buffers.stage(layout)
        arrays["token_ids"][:] = np.fromiter(chain.from_iterable(r.prompt_token_ids for r in requests), np.int64, total)
        arrays["positions"][:] = np.arange(total) - np.repeat(ends - lengths, lengths)
        arrays["token_types"][:] = 0
        for request, start, end in zip(requests, (ends - lengths).tolist(), ends.tolist(), strict=True):
            if request.token_type_ids is not None:
                arrays["token_types"][start:end] = request.token_type_ids
        arrays["cu_seqlens_q"][0] = 0
        arrays["cu_seqlens_q"][1:] = ends
        arrays["seq_lens"][:] = lengths
        return self._buffers.upload()

    def clear(self) -> None:
        """Give the memory back."""
        self._buffers = InputBuffers(self._stream, 0)

    def make_room(self, num_words: int) -> None:
        if num_words > self._buffers.capacity:
            self._stream.synchronize()  # the device may still read the old ones
            self._buffers = InputBuffers(self._stream, num_words)


def _layout(num_tokens: int, num_seqs: int) -> Layout:
    sections = [
        Section("token_ids", num_tokens),
        Section("positions", num_tokens),
        Section("token_types", num_tokens),
        Section("seq_lens", num_seqs, narrow=True),
        Section("cu_seqlens_q", num_seqs + 1, narrow=True),
    ]
    return Layout(sections)


class CudaPooling(PoolingRunner):
    """Asynchronous steps for any runner that pools. There are no graphs, for no two steps have the same lengths."""

    is_asynchronous = True

    @cached_property
    def stream(self) -> DeviceStream:
        return DeviceStream(self.device)

    @cached_property
    def inputs(self) -> PoolingInputs:
        return PoolingInputs(self.stream)

    def prepare(self, limits: StepLimits, *, enforce_eager: bool = False) -> None:
        """The weights were copied in another stream; from here on they are there for this one."""
        self.stream.join()
        with self.stream.active():
            self.inputs.make_room(_layout(limits.max_tokens, limits.max_tokens).num_words)
        if self.stream.stream is not None:
            self.warm_up(limits)

    def warm_up(self, limits: StepLimits) -> None:
        """Compile what serving needs."""
        for items in pooling_warm_ups(limits):
            self.execute(items)

    def measured_bytes(self, limits: StepLimits, *, enforce_eager: bool = False) -> int | None:
        """Runs the largest steps."""
        if self.stream.stream is None:
            return None
        self.prepare(limits)
        return measure_peak(self.device, lambda: self._run_largest(limits))

    @torch.inference_mode()
    def submit(self, requests: list[ScheduledRequest]) -> PendingBatch:
        """Launch one step; the result waits for it."""
        assert requests, "the scheduler sends no empty batch"
        order = sorted(range(len(requests)), key=lambda index: requests[index].num_scheduled_tokens)
        items = [requests[index] for index in order]
        with self.stream.active():
            pooled = self._launch(items)
            done = self.stream.record()
        return PendingStep(done, lambda: _in_order(pooled, order), runs_ahead=True)

    def execute(self, requests: list[ScheduledRequest]) -> list[RequestResult]:
        """One step, from submit to results."""
        return self.submit(requests).wait()

    def close(self) -> None:
        self.stream.synchronize()
        self.inputs.clear()
        super().close()

    def _launch(self, items: Sequence[ScheduledRequest]) -> PooledStep:
        tensors = self.inputs.stage(items)
        plan = AttentionPlan(
            [], isinstance(self.model, Decoder), self.block_size, self.device, packed=_metadata(items, tensors)
        )
        hidden = self._hidden(tensors["token_ids"], tensors["positions"], tensors["token_types"], plan)
        return self._pool(hidden, tensors["cu_seqlens_q"], items, self.stream.read_back)

    def _run_largest(self, limits: StepLimits) -> None:
        for items in pooling_steps(limits):
            self.execute(items)


class CudaEmbeddingRunner(CudaPooling, EmbeddingRunner):
    """Hidden states pooled into vectors."""


class CudaRerankRunner(CudaPooling, RerankRunner):
    """A cross-encoder: raw logits of a head on the first token."""


def _metadata(items: Sequence[ScheduledRequest], tensors: Tensors) -> AttentionMetadata:
    longest = items[-1].num_scheduled_tokens
    return AttentionMetadata(
        cu_seqlens_q=tensors["cu_seqlens_q"],
        seq_lens=tensors["seq_lens"],
        block_tables=None,
        num_seqs=len(items),
        num_decodes=0,
        max_query_len=longest,
        max_seq_len=longest,
        is_fresh=True,
    )


def _in_order(pooled: PooledStep, order: list[int]) -> list[RequestResult]:
    results = pooled.finish()
    places = {index: place for place, index in enumerate(order)}
    return [results[places[index]] for index in range(len(order))]
