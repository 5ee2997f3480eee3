"""carrel in two minutes: index documents, ask with citations, serve, and talk to the server through four clients.

    make demo        (or: python examples/demo.py)

Everything runs with the starter models that come with carrel; nothing is downloaded.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
import textwrap
import time
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from carrel import LLM, RequestOutputKind, SamplingParams
from carrel_rag import RAGPipeline

if TYPE_CHECKING:
    from carrel_rag.schema import Answer

DOCUMENTS = Path(__file__).resolve().parent / "documents"
QUESTIONS = (
    "Can I bring my own telescope?",
    "Who patented the typewriter?",
    "线上换货由谁批准？",
)
READER_NOTE = (
    "starter/reader is a very small model that learned to quote from passages. Without any it knows a few sentences by "
    "heart and otherwise talks nonsense; here it shows streaming, as the server does below, with no download."
)
NO_KEY = "none"  # these clients insist on a key; a server without --api-key asks for none


# ── Printing ───────────────────────────────────────────────────────────────────────────────────────────────────────


def paint(text: str, code: str) -> str:
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return f"\x1b[{code}m{text}\x1b[0m" if coloured else text


def bold(text: str) -> str:
    return paint(text, "1")


def dim(text: str) -> str:
    return paint(text, "2")


def heading(number: int, text: str) -> None:
    print(f"\n{bold(f'{number}  {text}')}\n")


def wrapped(text: str, indent: str = "     ", first: str | None = None) -> str:
    start = indent if first is None else first
    return textwrap.fill(" ".join(text.split()), 96, initial_indent=start, subsequent_indent=indent)


def padded(text: str, width: int) -> str:
    """``text`` with blanks up to ``width`` columns; a Chinese character takes two."""
    return text + " " * (width - sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text))


def milliseconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def print_live(pieces: Iterable[str]) -> int:
    """Print pieces as they come, on one line; the number of pieces that held text."""
    count = 0
    for piece in pieces:
        print(piece.replace("\n", " "), end="", flush=True)
        count += bool(piece)
    return count


# ── 1 to 3: in this process ────────────────────────────────────────────────────────────────────────────────────────


def index_documents(knowledge_base: RAGPipeline) -> None:
    heading(1, f"Index {DOCUMENTS.name}/ in this process")
    report = knowledge_base.add(DOCUMENTS, use_tqdm=False)
    for file in report.files:
        print(f"   {file.state:<8} {padded(file.name, 36)} {file.error or f'{file.num_chunks:>4} passages'}")
    print(dim(f"\n   {report.num_chunks} passages in {report.seconds:.1f} s"))


def print_answer(answer: Answer) -> None:
    print(f"   {bold('Q')} {bold(answer.question)}")
    print(wrapped(answer.text, first="   A "))
    for citation in answer.citations:
        print(
            f"\n     [{citation.number}] {bold(citation.name)}{dim(f' · {citation.place}') if citation.place else ''}"
        )
        print(dim(wrapped(f"“{citation.quote}”", indent="         ")))
    times = answer.timings
    stages = {
        "retrieve": times.retrieve,
        "rerank": times.rerank,
        "first token": times.first_token,
        "total": times.total,
    }
    print(dim("\n     " + " · ".join(f"{stage} {milliseconds(value)}" for stage, value in stages.items()) + "\n"))


def ask_questions(knowledge_base: RAGPipeline) -> None:
    heading(2, "Ask: a few words of the cited passages, found by the reranker")
    for question in QUESTIONS:
        print_answer(knowledge_base.ask(question, mode="extractive"))


def show_chat_model(llm: LLM) -> None:
    heading(3, "The chat model, as machinery")
    print(wrapped(READER_NOTE, "   ") + "\n")
    params = SamplingParams(temperature=0.0, max_tokens=48, output_kind=RequestOutputKind.DELTA)
    for question in ("Who are you?", "你是谁？", "How long do I keep a receipt?"):
        started = time.perf_counter()
        print(f"   {bold(question)} → ", end="")
        deltas = (output.outputs[0].text for output in llm.stream_chat([{"role": "user", "content": question}], params))
        count = print_live(deltas)
        print(dim(f"  ({count} pieces, {milliseconds(time.perf_counter() - started)})"))


# ── 4: over HTTP ───────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def served() -> Iterator[str]:
    """`carrel serve` with the starter models on a free port; its address, without /v1."""
    command = [sys.executable, "-m", "carrel_server", "--port", "0", "--disable-uvicorn-access-log"]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        with subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as process:
            try:
                yield wait_for_address(process, log.fileno())
            finally:
                process.terminate()
        print(f"   The server has stopped, exit status {process.returncode}.")


def wait_for_address(process: subprocess.Popen[bytes], log: int) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        text = os.pread(log, 1 << 20, 0).decode()
        if found := re.search(r"ready at (http://\S+)", text):
            return found[1]
        time.sleep(0.05)
    raise SystemExit(f"The server did not start:\n{os.pread(log, 1 << 20, 0).decode()}")


def talk_as_langchain(address: str) -> None:
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    chat = ChatOpenAI(base_url=f"{address}/v1", api_key=SecretStr(NO_KEY), model="starter/reader", temperature=0)
    print(f"   {bold('langchain_openai.ChatOpenAI')}, streamed\n     ", end="")
    count = print_live(str(chunk.content) for chunk in chat.stream("Say hello."))
    print(dim(f"  ({count} chunks)\n"))


def talk_as_llama_index(address: str) -> None:
    from llama_index.llms.openai_like import OpenAILike

    llm = OpenAILike(
        api_base=f"{address}/v1", api_key=NO_KEY, model="starter/reader", is_chat_model=True, max_tokens=48
    )
    print(f"   {bold('llama_index.llms.openai_like.OpenAILike')}\n     {llm.complete('你好').text}\n")


def embed_as_openai(address: str) -> None:
    import numpy as np
    from openai import OpenAI

    texts = ["The cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose again."]
    with OpenAI(base_url=f"{address}/v1", api_key=NO_KEY) as client:
        data = client.embeddings.create(model="starter/embedding", input=texts).data
    vectors = np.array([item.embedding for item in data])  # [3, 384], unit length
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    print(f"   {bold('openai')}, embeddings: {len(data)} vectors of {vectors.shape[1]}")
    print(f"     cat and kitten {near:.2f}, cat and interest rates {far:.2f}\n")


def rerank_over_http(address: str) -> None:
    import httpx

    documents = ["Trains run every ten minutes.", "Water the fern twice a week.", "Ferns like shade and damp soil."]
    body = {"query": "How often does a fern need water?", "documents": documents}
    response = httpx.post(f"{address}/rerank", json=body, timeout=60).raise_for_status()
    print(f"   {bold('POST /rerank')}: {body['query']}")
    for result in response.json()["results"]:
        print(f"     {result['relevance_score']:.3f}  {documents[result['index']]}")
    print()


def talk_to_the_server() -> None:
    heading(4, "Serve, and talk to the server")
    started = time.perf_counter()
    with served() as address:
        print(f"   carrel serve  →  {address}  {dim(f'(ready after {milliseconds(time.perf_counter() - started)})')}\n")
        talk_as_langchain(address)
        talk_as_llama_index(address)
        embed_as_openai(address)
        rerank_over_http(address)


def main() -> None:
    started = time.perf_counter()
    print(bold("carrel") + dim(f" · Python {platform.python_version()} · {os.cpu_count()} cores"))
    with tempfile.TemporaryDirectory() as folder, LLM() as llm:
        with RAGPipeline.open(folder, llm=llm) as knowledge_base:
            index_documents(knowledge_base)
            ask_questions(knowledge_base)
        show_chat_model(llm)
    talk_to_the_server()
    print(dim(f"\n   All of it: {time.perf_counter() - started:.0f} s\n"))


if __name__ == "__main__":
    main()
