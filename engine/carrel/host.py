"""Chat, embedding and rerank models in one process: one memory plan, one scheduler, one thread that owns the device.

Knows how the parts are put together and taken apart; does not know text or callers. Sets nothing process-wide, so that
it can live in a notebook or in somebody else's service.
"""

from __future__ import annotations

import itertools
import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from carrel.config import Ability, EngineConfig, ModelSpec
from carrel.core import EngineCore
from carrel.errors import EngineClosedError, InvalidParamsError, ModelNotFoundError, UnsupportedTaskError
from carrel.hosted_model import HostedModel
from carrel.kv_cache import KVCacheManager
from carrel.loop import EngineLoop
from carrel.matryoshka import is_matryoshka
from carrel.metrics import EngineMetrics, EngineSnapshot
from carrel.model_source import ModelSource, check_task, context_length, find_sources
from carrel.models.config import ModelConfig
from carrel.models.sharding import share_of
from carrel.parsers.registry import resolve_reasoning_parser, resolve_tool_parser
from carrel.scheduler import Scheduler
from carrel.step import Executor
from carrel.worker.executor import BeforeStep, DeviceExecutor
from carrel.worker.loader import load_runner
from carrel.worker.memory import MemoryPlan, plan_memory, step_limits
from carrel.worker.model_runner import ChatRunner, ModelRunner

if TYPE_CHECKING:
    from carrel.chat_template import ChatTemplate
    from carrel.tokenizer import Tokenizer
    from carrel.worker.team import Team

logger = logging.getLogger(__name__)


class EngineHost:
    """Hosts models until :meth:`close`. Any number of faces and threads may use one host.

    ``before_step`` is called before each step of a model, for whoever owns the process and sets its threads.

    >>> with EngineHost([ModelSpec(name="starter/reader")]) as host:
    ...     host.get(None, "chat").names
    ('starter/reader', 'reader')

    Raises:
        ModelError: a model cannot be found, read or served.
        OutOfMemoryError: the models do not fit the machine.
    """

    def __init__(
        self,
        models: Sequence[ModelSpec | ModelSource],
        config: EngineConfig | None = None,
        *,
        before_step: BeforeStep | None = None,
    ) -> None:
        self.config = config or EngineConfig()
        self.metrics = EngineMetrics()
        self._seeds = itertools.count()
        self._closing = threading.Lock()
        self._closed = False
        sources = find_sources(models, self.config)
        self.device = resolve_device(self.config.device)
        self.config = replace(self.config, device=self.device)
        runners: dict[str, ModelRunner] = {}
        self._team: Team | None = None
        try:
            self._team = _open_team(sources, self.config, self.device)
            loaded = self._load(sources, runners)
            self.memory_plan = self._plan_memory(loaded, runners)
            self.models = {item.source.names[0]: describe_model(item, self.memory_plan) for item in loaded}
            self._executor = DeviceExecutor(runners, before_step)
            overlap = resolve_overlap(self.config.overlap_scheduling, self._executor)
            core = EngineCore(self._make_scheduler(runners), self._executor, overlap=overlap)
        except BaseException:
            DeviceExecutor(runners).close()
            if self._team is not None:
                self._team.close()
            raise
        self.loop = EngineLoop(core, max_queued_requests=self.config.max_queued_requests)
        if self._team is not None:
            self._team.on_failure(self.loop.fail)
        logger.info("ready: %s", self.memory_plan.describe())

    # -- models

    def get(self, name: str | None, task: Ability) -> HostedModel:
        """The model of that name that does ``task``; without a name the first one made for it, else the first able.

        Raises:
            ModelNotFoundError: no such name; the message lists all.
            UnsupportedTaskError: the model, or every model, does something else.
        """
        if name is None:
            able = [model for model in self.models.values() if model.can(task)]
            if not able:
                raise UnsupportedTaskError(f"No model for {task} is hosted. Hosted: {self._listing()}.", param="model")
            return next((model for model in able if model.is_made_for(task)), able[0])
        model = self.find(name)
        if not model.can(task):
            raise UnsupportedTaskError(
                f"{name} is a model for {model.task}, not for {task}. Hosted: {self._listing()}.", param="model"
            )
        return model

    def find(self, name: str) -> HostedModel:
        """The model of that name, whatever it does."""
        for model in self.models.values():
            if name in model.names:
                return model
        raise ModelNotFoundError(f"There is no model {name!r} here. Hosted: {self._listing()}.")

    def _listing(self) -> str:
        return ", ".join(f"{model.key} ({model.task})" for model in self.models.values())

    # -- life

    @property
    def is_alive(self) -> bool:
        """True while requests are accepted."""
        return not self._closed and self.loop.is_alive

    def close(self, timeout: float = 10.0) -> None:
        """End every request, stop the thread, give the memory back. Idempotent, from any thread."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self.loop.close(timeout)
            self._executor.close()
            if self._team is not None:
                self._team.close()

    @property
    def process_ids(self) -> list[int]:
        """Of the processes that compute beside this one, when chat models are shared out; none otherwise."""
        return self._team.process_ids if self._team else []

    def check_open(self) -> None:
        if self._closed:
            raise EngineClosedError("The engine is closed. Open a new one.")

    def __enter__(self) -> EngineHost:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- numbers

    def fresh_seed(self) -> int:
        """A seed for a request that brings none: another one each time, the same ones in each run."""
        return self.config.seed * 1_000_003 + next(self._seeds) * 7919

    def stats(self) -> EngineSnapshot:
        """What the engine did and does, for a person or an exporter."""
        return self.metrics.snapshot(self.loop.stats())

    # -- construction

    def _load(self, sources: Sequence[ModelSource], runners: dict[str, ModelRunner]) -> list[LoadedModel]:
        """Load every model; sources of the same weights share one runner. ``runners`` is filled."""
        if self.config.quantization is not None and not any(source.task == "chat" for source in sources):
            message = "quantization is for chat models, and none is hosted; embedders and rerankers stay exact."
            raise InvalidParamsError(message, param="quantization")
        loaded: list[LoadedModel] = []
        for source in sources:
            twin = next((item for item in loaded if item.source.weights_key == source.weights_key), None)
            item = replace(twin, source=source) if twin else self._load_weights(source, runners)
            check_task(source, item.config.task)
            loaded.append(item)
        return loaded

    def _load_weights(self, source: ModelSource, runners: dict[str, ModelRunner]) -> LoadedModel:
        started, key = time.monotonic(), source.names[0]
        logger.info("loading %s from %s", key, source.folder)
        config = ModelConfig.from_folder(source.folder)
        check_task(source, config.task)
        context_length(source, config)
        tokenizer = None if self.config.skip_tokenizer_init else load_tokenizer(source.folder)
        runners[key] = self._load_runner(source, config)
        megabytes = runners[key].weights_bytes / 1e6
        logger.info("loaded %s: %.1f MB of weights in %.1f s", key, megabytes, time.monotonic() - started)
        return LoadedModel(source, key, config, tokenizer)

    def _load_runner(self, source: ModelSource, config: ModelConfig) -> ModelRunner:
        options: dict[str, Any] = {
            "dtype": source.dtype,
            "block_size": self.config.block_size,
            "load_format": self.config.load_format,
            "quantization": self.config.quantization,
        }
        if self._team is None or config.task != "chat":
            return load_runner(source.folder, config, device=self.device, **options)
        from carrel.worker.lead_runner import load_lead_runner

        return load_lead_runner(self._team, source.folder, config, options)

    def _plan_memory(self, loaded: Sequence[LoadedModel], runners: Mapping[str, ModelRunner]) -> MemoryPlan:
        asked = {item.runner_key: item.source.max_model_len for item in loaded if item.config.task == "chat"}
        lengths = {key: length for key, length in asked.items() if length is not None}
        return plan_memory(self.device, runners, self.config, max_model_lens=lengths)

    def _make_scheduler(self, runners: Mapping[str, ModelRunner]) -> Scheduler:
        managers: dict[str, KVCacheManager] = {}
        for key, plan in self.memory_plan.caches.items():
            runner = runners[key]
            assert isinstance(runner, ChatRunner), "only chat models have a KV cache"
            runner.allocate_kv_cache(plan.num_blocks)
            managers[key] = KVCacheManager(
                plan.num_blocks,
                plan.block_size,
                enable_caching=self.config.enable_prefix_caching,
                max_model_len=plan.max_model_len,
            )
        lengths = {model.runner_key: model.max_model_len for model in self.models.values()}
        for key, runner in runners.items():
            runner.prepare(step_limits(self.config, lengths[key]), enforce_eager=self.config.enforce_eager)
        pooling = [model for model in self.models.values() if model.runner_key not in managers]
        return Scheduler(
            managers,
            pooling_models={model.runner_key: model.config.max_model_len for model in pooling},
            max_num_seqs=self.config.max_num_seqs,
            max_num_batched_tokens=self.config.step_tokens,
        )


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A source whose weights are in the runner of ``runner_key``."""

    source: ModelSource
    runner_key: str
    config: ModelConfig
    tokenizer: Tokenizer | None


def _open_team(sources: Sequence[ModelSource], config: EngineConfig, device: str) -> Team | None:
    """The ranks beside this one, when chat models are shared out. All is checked before a process is started.

    Raises:
        InvalidParamsError: too few GPUs, no chat model, or one that cannot be shared out so.
    """
    size = config.tensor_parallel_size
    if size == 1:
        return None
    configs = [ModelConfig.from_folder(folder) for folder in dict.fromkeys(source.folder for source in sources)]
    chats = [found for found in configs if found.task == "chat"]
    if not chats:
        message = f"tensor_parallel_size={size} is for chat models, and none is hosted; leave it out."
        raise InvalidParamsError(message, param="tensor_parallel_size")
    for chat in chats:
        share_of(chat, size)
    from carrel.worker.lead_runner import rank_devices  # loads torch's collectives
    from carrel.worker.team import Team

    return Team(rank_devices(device, size))


def describe_model(loaded: LoadedModel, plan: MemoryPlan) -> HostedModel:
    """What callers see of a model whose weights are in."""
    source, config, tokenizer = loaded.source, loaded.config, loaded.tokenizer
    is_chat = config.task == "chat"
    cache = plan.caches.get(loaded.runner_key)
    template = _chat_template(source, tokenizer) if tokenizer else None
    text = f"{template.text}{template.tool_text or ''}" if template else None
    ends = {tokenizer.eos_token_id} if tokenizer and is_chat and tokenizer.eos_token_id is not None else set()
    return HostedModel(
        key=source.names[0],
        runner_key=loaded.runner_key,
        names=source.names,
        task=source.task,
        folder=source.folder,
        config=config,
        loaded_tokenizer=tokenizer,
        chat_template=template,
        max_model_len=cache.max_model_len if cache else context_length(source, config),
        eos_token_ids=config.eos_token_ids | ends,
        matryoshka=is_matryoshka(source.name, source.folder),
        tool_call_parser=resolve_tool_parser(source.tool_call_parser, text),
        reasoning_parser=resolve_reasoning_parser(source.reasoning_parser, text),
    )


def load_tokenizer(folder: Path) -> Tokenizer:
    from carrel.tokenizer import Tokenizer  # here and below: what an engine of token ids does without

    return Tokenizer.from_folder(folder)


def _chat_template(source: ModelSource, tokenizer: Tokenizer) -> ChatTemplate | None:
    text = source.chat_template or (tokenizer.chat_template if source.task == "chat" else None)
    if not text:
        return None
    from carrel.chat_template import ChatTemplate

    own_tools = None if source.chat_template else tokenizer.tool_chat_template
    return ChatTemplate(text, tokenizer.special_tokens, tool_text=own_tools)


def resolve_device(device: str) -> str:
    """ "auto" is the first GPU if there is one, else the CPU.

    Raises:
        InvalidParamsError: the device is not here, or not one that carrel computes on.
    """
    import torch

    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if num_gpus else "cpu"
    if re.fullmatch(r"cpu|cuda(:\d+)?", device) is None:
        raise InvalidParamsError(f'device must be "auto", "cpu", "cuda" or "cuda:N", got {device!r}.', param="device")
    if device != "cpu" and int(device.partition(":")[2] or 0) >= num_gpus:
        hint = "" if num_gpus else " (is this torch built with CUDA, and is there a driver?)"
        message = f'device={device!r} is not here, torch finds {num_gpus} GPUs{hint}; use "cpu" or "auto".'
        raise InvalidParamsError(message, param="device")
    return device


def resolve_overlap(asked: bool | None, executor: Executor) -> bool:
    """Whether steps overlap: as asked, by default where the device works while the host goes on."""
    if asked and not executor.is_asynchronous:
        raise InvalidParamsError(
            "overlap_scheduling=True needs a device that computes while the host goes on, and this one does not. "
            "Leave it at None.",
            param="overlap_scheduling",
        )
    return executor.is_asynchronous if asked is None else asked
