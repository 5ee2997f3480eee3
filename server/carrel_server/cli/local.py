"""``carrel complete | embed | rerank``: one model in this process, text in, text out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click
from carrel.params import RequestOutputKind, SamplingParams

from carrel_server.cli.parameters import DTYPES

if TYPE_CHECKING:
    from carrel import LLM
    from carrel.outputs import RequestOutput


def model_options(default: str | None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: --model, --device, --dtype."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option("--dtype", type=click.Choice(list(DTYPES)), default="auto", show_default=True),
            click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1."),
            click.option("--model", default=default, show_default=bool(default), help="Folder or name of a model."),
        ):
            function = option(function)
        return function

    return decorate


def sampling_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: --max-tokens, --temperature, --seed."""
    for option in (
        click.option("--seed", type=int, help="Same seed, same text."),
        click.option("--temperature", type=float, default=0.7, show_default=True, help="0 is greedy."),
        click.option("--max-tokens", type=int, default=256, show_default=True),
    ):
        function = option(function)
    return function


def open_llm(model: str, device: str, dtype: str) -> LLM:
    from carrel import LLM

    return LLM(model, device=device, dtype=DTYPES[dtype])


def streaming_params(max_tokens: int, temperature: float, seed: int | None) -> SamplingParams:
    kind = RequestOutputKind.DELTA
    return SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed, output_kind=kind)


def print_stream(outputs: Iterable[RequestOutput]) -> None:
    """Print the deltas as they come."""
    for output in outputs:
        click.echo(output.outputs[0].text, nl=False)
    click.echo()


@click.command(short_help="Continue a text, without a chat template.")
@click.argument("prompt")
@model_options("starter/reader")
@sampling_options
def complete(prompt: str, model: str, device: str, dtype: str, **sampling: Any) -> None:
    """Continue PROMPT, without a chat template."""
    params = streaming_params(**sampling)
    with open_llm(model, device, dtype) as llm:
        print_stream(llm.stream(prompt, params))


@click.command(short_help="Print the vectors of texts.")
@click.argument("texts", nargs=-1)
@model_options("starter/embedding")
def embed(texts: tuple[str, ...], model: str, device: str, dtype: str) -> None:
    """Print one JSON array for each of TEXTS, or for each line of the standard input."""
    inputs = list(texts) or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not inputs:
        raise click.UsageError("Give at least one text.")
    with open_llm(model, device, dtype) as llm:
        for output in llm.embed(inputs, use_tqdm=False):
            click.echo(json.dumps([round(float(value), 7) for value in output.outputs.embedding]))


@click.command(short_help="Sort documents by relevance to a query.")
@click.argument("query")
@click.argument("documents", nargs=-1)
@model_options("starter/reranker")
@click.option("--top-n", type=click.IntRange(0), help="Only the best; default: all.")
def rerank(query: str, documents: tuple[str, ...], model: str, device: str, dtype: str, top_n: int | None) -> None:
    """Print DOCUMENTS (or the lines of the standard input) by relevance to QUERY: score, index, text."""
    texts = list(documents) or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not texts:
        raise click.UsageError("Give at least one document.")
    with open_llm(model, device, dtype) as llm:
        for result in llm.rerank(query, texts, top_n=top_n or None).results:
            click.echo(f"{result.relevance_score:.4f}\t{result.index}\t{result.document}")
