"""vLLM's flags that carrel does not use: some mean nothing here (one warning), some are not there yet (refused).

A flag in neither table nor among ``carrel serve``'s own is an error like any misspelling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True)
class ForeignFlag:
    """One flag. ``why`` follows "--flag" in the message; ``harmless`` are values that ask for nothing."""

    names: tuple[str, ...]
    why: str
    takes_value: bool = True
    refused: bool = True
    harmless: tuple[str, ...] = ()


def _not_yet(*names: str, harmless: tuple[str, ...] = (), takes_value: bool = True) -> ForeignFlag:
    why = "is not supported by carrel yet; leave it out"
    return ForeignFlag(names, why, takes_value, True, harmless)


def _no_meaning(
    *names: str, takes_value: bool = True, why: str = "means nothing to carrel and is ignored"
) -> ForeignFlag:
    return ForeignFlag(names, why, takes_value, False)


ONE_ENGINE = "is not possible: carrel runs one engine; leave it out or set it to 1, and see --tensor-parallel-size"

NO_BODIES = "is not possible: carrel's log never holds what people write"

NOT_YET = (
    ForeignFlag(("--pipeline-parallel-size", "-pp"), ONE_ENGINE, harmless=("1",)),
    ForeignFlag(("--data-parallel-size", "-dp"), ONE_ENGINE, harmless=("1",)),
    _not_yet("--kv-cache-dtype", harmless=("auto",)),
    _not_yet("--tool-parser-plugin"),
    _not_yet("--knowledge-base"),
    _not_yet("--enable-lora", takes_value=False),
    _not_yet("--lora-modules"),
    _not_yet("--speculative-config"),
    _not_yet("--speculative-model"),
    _not_yet("--num-speculative-tokens"),
    _not_yet("--rope-scaling"),
    _not_yet("--rope-theta"),
    _not_yet("--hf-overrides"),
    _not_yet("--hf-config-path"),
    _not_yet("--override-pooler-config", "--pooler-config"),
    _not_yet("--override-generation-config"),
    _not_yet("--convert", harmless=("auto", "none")),
    _not_yet("--logits-processors"),
    _not_yet("--tokenizer"),
    _not_yet("--tokenizer-revision"),
    _not_yet("--code-revision"),
    _not_yet("--cpu-offload-gb", harmless=("0",)),
    _not_yet("--preemption-mode", harmless=("recompute",)),
    _not_yet("--workers", harmless=("1",)),
    _not_yet("--middleware"),
    _not_yet("--reasoning-parser-plugin"),
    _not_yet("--tool-server"),
    _not_yet("--log-config-file"),
    _not_yet("--api-server-count", harmless=("1",)),
    _not_yet("--exclude-tools-when-tool-choice-none", takes_value=False),
    _not_yet("--headless", takes_value=False),
    _not_yet("--enable-force-include-usage", takes_value=False),
    _not_yet("--enable-tokenizer-info-endpoint", takes_value=False),
    ForeignFlag(("--enable-log-requests", "--enable-log-outputs"), NO_BODIES, takes_value=False),
    _not_yet("--config"),
    _not_yet("--enable-expert-parallel", takes_value=False),
    _not_yet("--enable-sleep-mode", takes_value=False),
    _not_yet("--return-tokens-as-token-ids", takes_value=False),
    _not_yet("--kv-transfer-config"),
    ForeignFlag(("--enable-ssl-refresh",), "is not needed: SIGHUP reads the certificate again", takes_value=False),
    _not_yet("--ssl-ciphers"),
    _not_yet("--response-role", harmless=("assistant",)),
)

ALWAYS = "is always so in carrel; the flag changes nothing"

A_HEAD = "changes nothing: request line and headers may have 64 KiB together"

NO_REMOTE_CODE = "changes nothing: carrel runs no code out of model folders"

NO_MEANING = (
    _no_meaning("--trust-remote-code", takes_value=False, why=NO_REMOTE_CODE),
    _no_meaning("--enable-chunked-prefill", takes_value=False, why=ALWAYS),
    _no_meaning("--enable-reasoning", takes_value=False, why=ALWAYS),
    _no_meaning("--enable-request-id-headers", takes_value=False, why=ALWAYS),
    _no_meaning("--enable-prompt-tokens-details", takes_value=False, why=ALWAYS),
    _no_meaning("--disable-log-requests", "--no-enable-log-requests", takes_value=False, why=ALWAYS),
    _no_meaning("--lora-dtype"),
    _no_meaning("--max-loras"),
    _no_meaning("--max-lora-rank"),
    _no_meaning("--swap-space"),
    _no_meaning("--distributed-executor-backend"),
    _no_meaning("--disable-custom-all-reduce", takes_value=False),
    _no_meaning("--max-parallel-loading-workers"),
    _no_meaning("--disable-log-stats", takes_value=False),
    _no_meaning("--disable-frontend-multiprocessing", takes_value=False),
    _no_meaning("--tokenizer-mode"),
    _no_meaning("--guided-decoding-backend"),
    _no_meaning("--structured-outputs-config"),
    _no_meaning("--num-scheduler-steps"),
    _no_meaning("--max-seq-len-to-capture"),
    _no_meaning("--cuda-graph-sizes"),
    _no_meaning("--compilation-config", "-O"),
    _no_meaning("--attention-backend"),
    _no_meaning("--use-v2-block-manager", takes_value=False),
    _no_meaning("--scheduler-delay-factor"),
    _no_meaning("--scheduling-policy"),
    _no_meaning("--max-num-partial-prefills"),
    _no_meaning("--max-long-partial-prefills"),
    _no_meaning("--long-prefill-token-threshold"),
    _no_meaning("--limit-mm-per-prompt"),
    _no_meaning("--mm-processor-kwargs"),
    _no_meaning("--disable-mm-preprocessor-cache", takes_value=False),
    _no_meaning("--num-lookahead-slots"),
    _no_meaning("--ray-workers-use-nsight", takes_value=False),
    _no_meaning("--worker-cls"),
    _no_meaning("--max-log-len"),
    _no_meaning("--max-logprobs", why="changes nothing: a request may ask for 20, OpenAI's limit"),
    _no_meaning("--h11-max-incomplete-event-size", why=A_HEAD),
    _no_meaning("--h11-max-header-count", why=A_HEAD),
    _no_meaning("--log-error-stack", takes_value=False, why=ALWAYS),
    _no_meaning("--enable-server-load-tracking", takes_value=False),
    _no_meaning("--chat-template-content-format"),
    _no_meaning("--safetensors-load-strategy"),
    _no_meaning("--hf-token"),
    _no_meaning("--collect-detailed-traces"),
    _no_meaning("--otlp-traces-endpoint"),
)


def foreign_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: the command takes both tables' flags, hidden, and passes none of them on."""
    for flag in (*NOT_YET, *NO_MEANING):
        options: dict[str, Any] = {"hidden": True, "expose_value": False, "callback": _callback(flag)}
        if not flag.takes_value:
            options |= {"is_flag": True, "default": None}
        function = click.option(*flag.names, **options)(function)
    return function


def _callback(flag: ForeignFlag) -> Callable[[click.Context, click.Parameter, Any], None]:
    def check(_: click.Context, __: click.Parameter, value: Any) -> None:
        if value is None or value in flag.harmless:
            return
        if flag.refused:
            raise click.UsageError(f"{flag.names[0]} {flag.why}.")
        click.echo(f"Warning: {flag.names[0]} {flag.why}.", err=True)

    return check
