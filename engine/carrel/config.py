"""What the user asks of an engine. Frozen: what is derived from it lives elsewhere, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from carrel.errors import InvalidParamsError

Task = Literal["chat", "embedding", "rerank"]
# A task, or what else a model of one can do.
Ability = Literal["chat", "embedding", "rerank", "classify", "pooling", "extract"]
LoadFormat = Literal["auto", "dummy"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["int8", "int4", "fp8"]
QUANTIZATIONS: tuple[Quantization, ...] = ("int8", "int4", "fp8")
CPU_STEP_TOKENS = 2048
GPU_STEP_TOKENS = 8192  # a 7B model computes so many in a quarter of a second on a large GPU


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One model to host. ``name`` is a folder, a bundled ``starter/…`` model or a hub name."""

    name: str
    task: Task | None = None  # None: read from the model's files
    served_model_name: tuple[str, ...] = ()  # names for HTTP clients; empty: ``name`` and the folder's last part
    dtype: DType | None = None  # None: the engine's
    max_model_len: int | None = None  # None: the engine's, else the model's
    revision: str | None = None  # of a Hugging Face repository: branch, tag or commit; None: its newest
    chat_template: str | None = None  # template text that replaces the model's own
    tool_call_parser: str | None = None  # how it writes tool calls, see carrel.parsers; None: read from the template
    reasoning_parser: str | None = None  # how it writes its thoughts; None: read from the template; "none": it has none


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Options of one engine, with vLLM's names where vLLM has them."""

    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:1"
    tensor_parallel_size: int = 1  # processes that share each chat model: on GPUs one each, from ``device`` on
    dtype: DType = "auto"  # auto: the checkpoint's, or the nearest one that the device does well
    quantization: Quantization | None = None  # of chat models' weights, at load; vectors and scores stay exact
    max_model_len: int | None = None  # tokens of prompt and output; None: the model's own
    max_num_seqs: int = 256  # chat requests in one step
    max_num_batched_tokens: int | None = None  # tokens of all models in one step; None: see ``step_tokens``
    max_queued_requests: int = 100_000  # waiting requests; one more is refused
    block_size: int = 16  # tokens in one KV block
    kv_cache_memory_bytes: int | None = None  # None: planned from what the device has
    gpu_memory_utilization: float = 0.9  # share of the device for weights, activations and KV
    enable_prefix_caching: bool = True
    enforce_eager: bool = False  # no CUDA graphs
    overlap_scheduling: bool | None = None  # prepare a step while the device runs another; None: where the device can
    download_dir: str | None = None  # where Hugging Face's models are kept; None: its own cache
    trust_remote_code: bool = False
    load_format: LoadFormat = "auto"  # "dummy": random weights, made on the device; to measure without a checkpoint
    skip_tokenizer_init: bool = False  # token ids in and out, no text: a model folder then needs no tokenizer
    seed: int = 0  # of requests that bring none

    def __post_init__(self) -> None:
        for name in (
            "max_num_seqs",
            "max_num_batched_tokens",
            "max_queued_requests",
            "block_size",
            "tensor_parallel_size",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidParamsError(f"{name} must be at least 1, got {value}.", param=name)
        if self.quantization is not None and self.quantization not in QUANTIZATIONS:
            raise InvalidParamsError(
                f"quantization must be one of {', '.join(QUANTIZATIONS)}, got {self.quantization!r}.",
                param="quantization",
            )
        if not 0.0 < self.gpu_memory_utilization <= 1.0:
            raise InvalidParamsError("gpu_memory_utilization must be in (0, 1].", param="gpu_memory_utilization")
        if self.max_model_len is not None and self.max_model_len < 2:
            raise InvalidParamsError("max_model_len must be at least 2.", param="max_model_len")

    @property
    def step_tokens(self) -> int:
        """Tokens of all models in one step: as asked, else enough to keep ``device`` busy in a step that stays short.

        >>> EngineConfig(device="cpu").step_tokens, EngineConfig(device="cuda").step_tokens
        (2048, 8192)
        """
        default = GPU_STEP_TOKENS if self.device.startswith("cuda") else CPU_STEP_TOKENS
        return self.max_num_batched_tokens or default
