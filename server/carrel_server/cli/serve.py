"""``carrel serve``: flags → a plan → the server. Flags that vLLM has keep vLLM's name and meaning."""

from __future__ import annotations

from typing import Any

import click

from carrel_server.cli.parameters import (
    DTYPES,
    TASKS,
    count,
    json_object,
    key_file,
    model_option,
    optional_count,
    quantization_of,
    read_template,
    reasoning_parser,
    seconds,
    tool_parser,
)
from carrel_server.cli.vllm_flags import foreign_flags

MODEL = "NAME[,key=value…]"
RUNNERS = ["auto", "generate", "pooling"]
POLICIES = ["reject", "model", "cl100k"]
LEVELS = ["debug", "info", "warning", "error"]
FORMATS = ["auto", "safetensors", "dummy"]
MANY_VALUES = ("--served-model-name", "--api-key", "--allowed-origins", "--allowed-methods", "--allowed-headers")
A_FILE = click.Path(exists=True, dir_okay=False)


class ServeCommand(click.Command):
    """vLLM lets some flags take several values: ``carrel serve X --served-model-name a b`` works here too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread_values(args))


def spread_values(arguments: list[str]) -> list[str]:
    """``--flag a b`` becomes ``--flag a --flag b``, but only after the model: before it, ``b`` would be the model.

    >>> spread_values(["m", "--served-model-name", "a", "b"])
    ['m', '--served-model-name', 'a', '--served-model-name', 'b']
    >>> spread_values(["--served-model-name", "a", "m"])
    ['--served-model-name', 'a', 'm']
    """
    result: list[str] = []
    has_model = (bool(arguments) and not arguments[0].startswith("-")) or "--model" in arguments
    flag, num_values = "", 0
    for argument in arguments:
        if argument.startswith("-"):
            flag, num_values = argument, 0
        elif flag in MANY_VALUES and has_model:
            num_values += 1
            if num_values > 1:
                result.append(flag)
        result.append(argument)
    return result


EPILOG = """\b
carrel serve                                       the bundled starter models
carrel serve Qwen/Qwen2.5-3B-Instruct BAAI/bge-m3 --host 0.0.0.0 --api-key-file keys.txt
carrel serve --chat-model ./qwen,max_model_len=8k --embedding-model ./bge --port 11434

carrel doctor takes the same models and says beforehand whether they fit.
"""
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


@click.command(cls=ServeCommand, context_settings=SETTINGS, epilog=EPILOG)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--model", "named_models", multiple=True, help="Same as MODEL; vLLM's module spelling.")
@click.option(
    "--chat-model", multiple=True, type=model_option("chat"), metavar=MODEL, help="A chat model and its own options."
)
@click.option("--embedding-model", multiple=True, type=model_option("embedding"), metavar=MODEL, help="An embedder.")
@click.option("--reranker-model", multiple=True, type=model_option("rerank"), metavar=MODEL, help="A reranker.")
@click.option("--runner", type=click.Choice(RUNNERS), default="auto", help="Overrule what the model's files say.")
@click.option("--task", type=click.Choice(list(TASKS)), default="auto", metavar="TASK", help="chat, embedding, rerank.")
@click.option("--served-model-name", multiple=True, help="Name(s) of the chat model, or of the only one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 lets other machines in.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 picks a free one.")
@click.option("--uds", type=click.Path(), metavar="FILE", help="Listen on a unix socket, not on host and port.")
@click.option("--api-key", multiple=True, help="Asked of every route but health. Also VLLM_API_KEY, CARREL_API_KEY.")
@click.option("--api-key-file", type=key_file, metavar="FILE", help="One key a line; read again on SIGHUP.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
@click.option("--tensor-parallel-size", "-tp", type=count, default=1, help="GPUs that share each chat model.")
@click.option(
    "--dtype", type=click.Choice(list(DTYPES)), default="auto", show_default=True, help="What it computes in."
)
@click.option("--quantization", "-q", type=quantization_of, metavar="int8|int4|fp8", help="Of chat models, at load.")
@click.option("--max-model-len", type=optional_count, metavar="COUNT", help="Tokens of prompt and answer, e.g. 32k.")
@click.option("--max-num-seqs", type=count, default=256, show_default=True, help="Chat requests in one step.")
@click.option(
    "--max-num-batched-tokens", type=optional_count, metavar="COUNT", help="Tokens in one step. [2048; GPU: 8192]"
)
@click.option("--max-queued-requests", type=count, default=100_000, show_default=True, help="One more gets a 429.")
@click.option("--block-size", type=count, default=16, show_default=True, help="Tokens in one KV block.")
@click.option("--kv-cache-memory-bytes", type=count, help="Default: planned from what the device has.")
@click.option("--gpu-memory-utilization", type=float, default=0.9, show_default=True, help="Share of the device.")
@click.option("--enable-prefix-caching/--no-enable-prefix-caching", default=True, show_default=True)
@click.option("--revision", metavar="NAME", help="Branch, tag or commit of a Hugging Face model.")
@click.option("--download-dir", type=click.Path(file_okay=False), metavar="DIR", help="Where those are kept.")
@click.option("--load-format", type=click.Choice(FORMATS), default="auto", help="dummy: random weights, to measure.")
@click.option("--enforce-eager", is_flag=True, help="No CUDA graphs.")
@click.option("--async-scheduling/--no-async-scheduling", "overlap_scheduling", default=None, help="Default: on a GPU.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of requests that bring none.")
@click.option("--chat-template", type=read_template, metavar="FILE|TEXT", help="Replaces the chat model's own.")
@click.option(
    "--default-chat-template-kwargs", "--chat-template-kwargs", type=json_object, metavar="JSON", help="For every chat."
)
@click.option("--trust-request-chat-template", is_flag=True, help="A chat may bring a template of its own.")
@click.option("--enable-auto-tool-choice", is_flag=True, help="Always so; with the flag a model that cannot is named.")
@click.option("--tool-call-parser", type=tool_parser, metavar="NAME", help="Default: read from the chat template.")
@click.option("--reasoning-parser", type=reasoning_parser, metavar="NAME", help="Default: read from the chat template.")
@click.option("--generation-config", type=click.Choice(["auto", "vllm"]), default="auto", help="Sampling defaults.")
@click.option("--embedding-token-ids", type=click.Choice(POLICIES), default="reject", help="Token ids as inputs.")
@click.option("--max-body-bytes", type=count, default=64 * 1024 * 1024, show_default=True, help="Of one request.")
@click.option("--max-inputs", type=count, default=2048, show_default=True, help="Texts or prompts of one request.")
@click.option("--max-documents", type=count, default=10_000, show_default=True, help="Of one rerank or score.")
@click.option("--max-choices", type=count, default=128, show_default=True, help="n and best_of; at most 128.")
@click.option("--max-stop-strings", type=count, default=64, show_default=True, help="Of one request.")
@click.option("--max-concurrent-requests", type=count, default=4096, show_default=True, help="One more gets a 429.")
@click.option("--request-timeout", type=seconds, default=3600, show_default=True, help="Seconds; 0: no limit.")
@click.option("--body-timeout", type=seconds, default=60, show_default=True, help="Seconds for a body to come.")
@click.option("--allowed-origins", multiple=True, help="Browsers' origins that may call (CORS).")
@click.option("--allowed-methods", multiple=True, help="What those may use. Default: all.")
@click.option("--allowed-headers", multiple=True, help="What those may send. Default: all.")
@click.option("--allow-credentials", is_flag=True, help="Those origins may send cookies.")
@click.option("--disable-fastapi-docs", is_flag=True, help="No /docs and /openapi.json.")
@click.option("--root-path", default="", help="Path prefix under which a proxy shows this server.")
@click.option("--ssl-keyfile", type=A_FILE, metavar="FILE", help="The certificate's key.")
@click.option("--ssl-certfile", type=A_FILE, metavar="FILE", help="Serve https; read again on SIGHUP.")
@click.option("--ssl-ca-certs", type=A_FILE, metavar="FILE", help="Who may have signed clients' certificates.")
@click.option("--ssl-cert-reqs", type=click.IntRange(0, 2), default=0, help="Clients' certificates: 2 needs one.")
@click.option("--uvicorn-log-level", "--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
@click.option("--access-log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--disable-access-log-for-endpoints", default="", metavar="PATH,…", help="No line for these.")
@click.option("--disable-uvicorn-access-log", "--no-access-log", is_flag=True, help="No line for each request.")
@click.option("--shutdown-timeout", type=click.IntRange(0), default=10, show_default=True, help="Seconds to finish in.")
@foreign_flags
def serve(**options: Any) -> None:
    """Serve models over HTTP with OpenAI's API. A model's task is read from its files; no MODEL: the starter models."""
    from carrel_server.cli.serve_plan import plan_serve

    plan = plan_serve(options)
    from carrel_server.run import run_server

    run_server(plan)
