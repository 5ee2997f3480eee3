"""Runs a chat model on a GPU: persistent buffers, CUDA graphs for decode, tokens that stay on the device.

::

    submit(N)      numpy → pinned → device ─ graph or eager ─ head ─ sample ─ last_tokens ─ ids to pinned ─ event N
    submit(N + 1)  reads last_tokens on the device; the host need not know them
    wait(N)        event N → results

The same code runs on a CPU, without streams and at once, where tests compare it with the plain runner. Knows no
scheduling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from carrel.models.config import ModelConfig
from carrel.models.decoder import Decoder
from carrel.step import PendingBatch, RequestResult, ScheduledRequest
from carrel.worker.chat_inputs import ChatInputs, ChatStep
from carrel.worker.cuda_graph import Capture, CudaCapture, DecodeGraphs, graph_sizes
from carrel.worker.device_sampler import DeviceSampler, sampler_for
from carrel.worker.device_stream import DeviceStream
from carrel.worker.largest_step import chat_steps, num_blocks
from carrel.worker.measured_memory import give_back, measure_peak, measure_taken
from carrel.worker.model_runner import ChatRunner
from carrel.worker.pending_step import PendingStep
from carrel.worker.prompt_logprobs import PromptRows, launch_prompt_logprobs
from carrel.worker.step_limits import StepLimits
from carrel.worker.step_sampler import HostSampler, SampledStep
from carrel.worker.token_table import largest_table
from carrel.worker.warm_up import chat_warm_ups


class CudaChatRunner(ChatRunner):
    """A decoder that generates, asynchronously. ``allocate_kv_cache`` and ``prepare`` come before the first step."""

    is_asynchronous = True

    def __init__(
        self, config: ModelConfig, model: Decoder, *, device: str, dtype: torch.dtype, block_size: int
    ) -> None:
        super().__init__(config, model, device=device, dtype=dtype, block_size=block_size)
        self.stream = DeviceStream(self.device, urgent=True)  # a chat does not wait for an embedding
        self.graphs = DecodeGraphs()
        self._inputs: ChatInputs | None = None
        self._hidden: Tensor | None = None  # [largest graph, hidden_size], what a replay leaves

    @property
    def captured_sizes(self) -> list[int]:
        return self.graphs.sizes

    @property
    def inputs(self) -> ChatInputs:
        assert self._inputs is not None, "prepare comes before the first step"
        return self._inputs

    @torch.inference_mode()
    def prepare(self, limits: StepLimits, *, enforce_eager: bool = False, capture: Capture | None = None) -> None:
        """Make the buffers for steps of at most ``limits``, and capture graphs unless ``enforce_eager``.

        ``capture`` records in another way than CUDA does; for tests.
        """
        self.stream.join()
        with self.stream.active():
            self._inputs = ChatInputs(self.stream, limits, block_size=self.block_size)
        if isinstance(self.sampler, HostSampler):  # a rank that does not sample has another one
            self.sampler = sampler_for(self.stream, limits.max_num_seqs)
        if capture is None and self.stream.stream is not None:
            capture = CudaCapture(self.stream)
        if capture is not None and not enforce_eager:
            self._capture(capture, graph_sizes(limits.max_num_seqs))
        if self.stream.stream is not None:
            self.warm_up()

    def warm_up(self) -> None:
        """Compile what serving needs. Before any request: it writes into the cache."""
        num_blocks = self.caches[0].keys.shape[1]
        for items in chat_warm_ups(self.inputs.limits, self.block_size, num_blocks):
            self.execute(items)
            self.release([item.request.request_id for item in items])

    def measured_bytes(self, limits: StepLimits, *, enforce_eager: bool = False) -> int | None:
        """Runs the largest steps, and captures two graphs, over a cache of a few blocks."""
        if self.stream.stream is None:
            return None
        self.allocate_kv_cache(num_blocks(limits, self.block_size))
        try:
            peak = measure_peak(self.device, lambda: self._run_largest(limits))
            graphs = 0 if enforce_eager else self._measure_graphs()
            return peak + graphs + largest_table(limits.max_num_seqs, self.config.vocab_size)
        finally:
            self._drop_state()
            give_back(self.device)

    def _run_largest(self, limits: StepLimits) -> None:
        self.prepare(limits, enforce_eager=True)
        for items in chat_steps(limits, self.block_size):
            self.execute(items)
            self.release([item.request.request_id for item in items])

    def _measure_graphs(self) -> int:
        """The largest graph brings the pool, each further one what the second largest adds."""
        capture = CudaCapture(self.stream)
        sizes = graph_sizes(self.inputs.limits.max_num_seqs)
        first = measure_taken(self.device, lambda: self._capture(capture, sizes[-1:]))
        more = measure_taken(self.device, lambda: self._capture(capture, sizes[-2:-1])) if len(sizes) > 1 else 0
        return first + more * (len(sizes) - 1)

    @torch.inference_mode()
    def submit(self, requests: list[ScheduledRequest]) -> PendingBatch:
        """Launch one step; the result waits for it."""
        assert requests, "the scheduler sends no empty batch"
        with self.stream.active():
            size = self._graph_size(requests)
            step = self.inputs.stage(requests, num_padded=size)
            hidden, prompts = self._run_eager(step) if size is None else (self._replay(step, size), [])
            sampled = self._sample_step(hidden, step)
            done = self.stream.record()
        return PendingStep(done, lambda: _results(step, sampled, prompts), self.sampler.runs_ahead(step.sampled_items))

    def execute(self, requests: list[ScheduledRequest]) -> list[RequestResult]:
        """One step, from submit to results."""
        return self.submit(requests).wait()

    def release(self, request_ids: Sequence[str]) -> None:
        """Rows of the device's tables that these requests held go to others."""
        if self._inputs is not None:
            self._inputs.rows.release(request_ids)
        self.sampler.release(request_ids)

    def close(self) -> None:
        self._drop_state()
        super().close()

    def _drop_state(self) -> None:
        """Everything but the weights."""
        self.stream.synchronize()
        if isinstance(self.sampler, DeviceSampler):
            self.sampler = HostSampler()
        self.graphs.clear()
        self._inputs, self._hidden, self.caches = None, None, []

    def _graph_size(self, items: Sequence[ScheduledRequest]) -> int | None:
        size = self.graphs.size_for(len(items))
        # A graph leaves nothing for the logits of a prompt: one token that asks for its own counts as two.
        return size if max([item.num_scheduled_tokens + item.num_prompt_logits for item in items]) == 1 else None

    def _run_eager(self, step: ChatStep) -> tuple[Tensor, list[PromptRows]]:
        """→ [num_samples, hidden_size], and what is asked of prompts"""
        inputs = self.inputs
        ids = inputs.input_ids(step.tensors)
        hidden: Tensor = self.model(ids, step.tensors["positions"], inputs.plan(step), self.caches)
        prompts = launch_prompt_logprobs(self.model, hidden, step.items, self.stream.read_back)
        return hidden.index_select(0, step.tensors["logits_indices"]), prompts

    def _replay(self, step: ChatStep, size: int) -> Tensor:
        """→ [num_samples, hidden_size]"""
        assert self._hidden is not None, "a graph writes there"
        self.graphs.replay(size)
        if len(step.sampled) == len(step.items):
            return self._hidden[: len(step.items)]
        return self._hidden.index_select(0, step.tensors["logits_indices"][: len(step.sampled)])

    def _sample_step(self, hidden: Tensor, step: ChatStep) -> SampledStep | None:
        if not step.sampled:
            return None
        sampled = self.sampler.sample(self.model.logits(hidden), step.sampled_items)
        rows = step.tensors["sample_rows"][: len(step.sampled)]
        self.inputs.last_tokens.index_copy_(0, rows, self.model.group.broadcast(sampled.token_ids))
        return sampled

    @torch.inference_mode()
    def _capture(self, capture: Capture, sizes: Sequence[int]) -> None:
        if self._hidden is None:
            rows = self.inputs.limits.max_num_seqs
            self._hidden = torch.zeros(rows, self.config.hidden_size, dtype=self.dtype, device=self.device)
        self.stream.join()
        self.graphs.capture(sizes, self._decode_body, capture)

    def _decode_body(self, size: int) -> Callable[[], None]:
        """A decode step of ``size`` sequences over the persistent buffers."""
        inputs, hidden, tensors = self.inputs, self._hidden, self.inputs.decode_tensors(size)
        assert hidden is not None, "there is a place for the result"
        inputs.clear(tensors)

        def body() -> None:
            ids = inputs.input_ids(tensors)
            out = self.model(ids, tensors["positions"], inputs.decode_plan(tensors), self.caches)
            hidden[:size].copy_(out)

        return body


def _results(step: ChatStep, sampled: SampledStep | None, prompts: list[PromptRows]) -> list[RequestResult]:
    results = _sampled_results(step, sampled)
    for prompt in prompts:
        prompt.put(results)
    return results


def _sampled_results(step: ChatStep, sampled: SampledStep | None) -> list[RequestResult]:
    if sampled is not None and len(step.sampled) == len(step.items):
        return sampled.results()
    results = [RequestResult() for _ in step.items]
    if sampled is not None:
        for index, result in zip(step.sampled, sampled.results(), strict=True):
            results[index] = result
    return results
