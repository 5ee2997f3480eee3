"""What ``carrel serve`` prints when it is ready: what it serves, how, on what, and where. The last line is for
programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from carrel._version import __version__

if TYPE_CHECKING:
    from carrel.host import EngineHost
    from carrel.hosted_model import HostedModel

    from carrel_server.cli.serve_plan import ServePlan


def banner(plan: ServePlan, host: EngineHost, address: str) -> Iterator[str]:
    yield f"carrel {__version__} on {host.device}"
    for hosted in host.models.values():
        yield f"  {hosted.task:<10} {', '.join(hosted.names)}  ({', '.join(model_facts(hosted))})"
        if hosted.task == "chat" and hosted.chat_template is None:
            yield "             no chat template: /v1/chat/completions is off until --chat-template gives one"
        elif plan.auto_tool_choice and hosted.task == "chat" and hosted.tool_call_parser is None:
            yield "             its way to write tool calls is not known: name it with --tool-call-parser"
    total, *caches = host.memory_plan.describe().splitlines()
    yield f"memory: {total.partition(': ')[2]}"
    yield from (f"        {cache.strip()}" for cache in caches)
    yield f"API key: {key_facts(plan)}"
    yield f"carrel is ready at {address}"


def model_facts(hosted: HostedModel) -> Iterator[str]:
    yield f"up to {hosted.max_model_len} tokens"
    if hosted.task == "chat":
        yield f"tools: {hosted.tool_call_parser or 'no parser'}"
        yield f"reasoning: {hosted.reasoning_parser or 'no parser'}"


def key_facts(plan: ServePlan) -> str:
    number = len(plan.settings.api_keys)
    if number:
        return "needed" if number == 1 else f"needed, one of {number}"
    is_local = plan.uds is not None or plan.host in ("127.0.0.1", "::1", "localhost")
    return "none asked for" if is_local else "none asked for, and other machines can reach this server"
