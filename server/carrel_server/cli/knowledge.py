"""``carrel index | ask``: a knowledge base on disk. Knows words and paths; what happens in it is ``carrel_rag``'s."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from carrel_rag import RAGPipeline
    from carrel_rag.schema import Answer, FileStatus, IngestReport, Mode


def knowledge_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: --knowledge-base and the models that read it."""
    for option in (
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1."),
        click.option("--reranker-model", default="starter/reranker", show_default=True),
        click.option("--embedding-model", default="starter/embedding", show_default=True),
        click.option("--knowledge-base", required=True, metavar="DIR[/NAME]", help="By carrel index; NAME: default."),
    ):
        function = option(function)
    return function


@click.command(short_help="Read documents into a knowledge base.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@knowledge_options
def index(paths: tuple[str, ...], knowledge_base: str, **models: Any) -> None:
    """Read the documents at PATH... into a knowledge base.

    Running it again reads only what has changed, and goes on after Ctrl-C. The status is 1 if a file could not be
    read; the others are indexed.
    """
    from carrel_rag import SourceNotFoundError

    missing = [path for path in paths if not path or not Path(path).exists()]
    if missing:  # before any model is loaded
        what = f"There is no file or directory {missing[0]!r} to index." if missing[0] else "A path to index is empty."
        raise SourceNotFoundError(what)
    with open_pipeline(None, knowledge_base, create=True, **models) as pipeline:
        report = add_and_tell(pipeline, paths)
    print_report(report)
    if report.failed:
        raise click.exceptions.Exit(1)


def add_and_tell(pipeline: RAGPipeline, paths: Sequence[str]) -> IngestReport:
    """Adds the files; interrupted, it says which ones are in the knowledge base, as they stay there."""
    from carrel_rag.schema import IngestReport

    done: list[FileStatus] = []
    started = time.perf_counter()
    try:
        return pipeline.add(paths, use_tqdm=sys.stderr.isatty(), on_file=done.append)
    except BaseException:  # Ctrl-C, too
        if done:
            print_report(IngestReport(files=tuple(done), seconds=time.perf_counter() - started))
            click.echo("Not all files were read; the same command goes on from here.", err=True)
        raise


@click.command(short_help="Answer a question from a knowledge base.")
@click.argument("question")
@knowledge_options
@click.option("--model", help="A chat model that writes the answer; default: a few words of a passage are quoted.")
@click.option(
    "--constrain/--no-constrain",
    default=None,
    help="Whether the chat model may only quote: a piece of a passage, or that there is no answer. "
    "Default: only the starter reader.",
)
def ask(question: str, model: str | None, constrain: bool | None, knowledge_base: str, **models: Any) -> None:
    """Answer QUESTION from a knowledge base, with citations."""
    from carrel_rag import AnswerEvent, DeltaEvent

    if constrain is not None and model is None:
        raise click.UsageError("--constrain and --no-constrain are about a chat model; give one by --model.")
    with open_pipeline(model, knowledge_base, create=False, **models) as pipeline:
        mode: Mode = "extractive" if model is None else "generative"
        for event in pipeline.stream(question, mode=mode, constrain=constrain):
            if isinstance(event, DeltaEvent):
                click.echo(event.text, nl=False)
            elif isinstance(event, AnswerEvent):
                print_sources(event.answer)


@contextmanager
def open_pipeline(
    model: str | None, knowledge_base: str, *, create: bool, embedding_model: str, reranker_model: str, device: str
) -> Iterator[RAGPipeline]:
    """The knowledge base with models of its own, closed at the end."""
    from carrel import LLM
    from carrel_rag import RAGPipeline, list_knowledge_bases, parse_location

    directory, name = parse_location(knowledge_base)
    if not create and name not in (known := list_knowledge_bases(directory)):  # before any model is loaded
        there = f"There: {', '.join(known)}." if known else "Make one with carrel index."
        raise click.ClickException(f"There is no knowledge base {name!r} in {directory}. {there}")
    with (
        LLM(model, embedding_model=embedding_model, reranker_model=reranker_model, device=device) as llm,
        RAGPipeline.open(directory, llm=llm, name=name, create=create) as pipeline,
    ):
        yield pipeline


def print_report(report: IngestReport) -> None:
    for status in report.files:
        click.echo(f"{status.state:<10} {status.name}  {outcome(status)}")
    numbers = f"{len(report.added)} indexed, {len(report.skipped)} unchanged, {len(report.failed)} failed"
    click.echo(f"{numbers}; {chunks(report.num_chunks)} in {report.seconds:.1f} s")


def outcome(status: FileStatus) -> str:
    if status.duplicate_of is not None:
        return f"same as {status.duplicate_of}"
    return status.error or chunks(status.num_chunks)


def chunks(count: int) -> str:
    """
    >>> chunks(1), chunks(2)
    ('1 chunk', '2 chunks')
    """
    return f"{count} chunk" if count == 1 else f"{count} chunks"


def print_sources(answer: Answer) -> None:
    """What stands under an answer: the cited passages, and the time of each stage."""
    click.echo()
    for citation in answer.citations:
        place = f", {citation.place}" if citation.place else ""
        click.echo(f"\n[{citation.number}] {citation.name}{place}\n    “{citation.quote}”")
    times = answer.timings
    first = "" if times.first_token is None else f", first token {times.first_token:.2f} s"
    click.echo(f"\nretrieve {times.retrieve:.2f} s, rerank {times.rerank:.2f} s{first}, total {times.total:.2f} s")
