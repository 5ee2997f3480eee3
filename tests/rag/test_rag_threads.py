"""Questions from many threads while documents are added, replaced and deleted."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from carrel_rag import Document, RAGPipeline
from rag_fakes import FakeEmbedder, FakeReranker


def note(number: int, version: int = 1) -> Document:
    return Document(text=f"第{number}号灯笼的高度是{version}米。", source=f"note-{number}", title="灯笼")


def test_asking_while_documents_come_change_and_go(tmp_path: Path) -> None:
    """A document that is replaced between the two searches must not fall out of the answer."""
    with RAGPipeline.open(tmp_path, embedder=FakeEmbedder(), reranker=FakeReranker()) as rag:
        rag.add([note(n) for n in range(20)], use_tqdm=False)
        stop = threading.Event()

        def ask() -> int:
            count = 0
            while not stop.is_set():
                answer = rag.ask("第7号灯笼的高度是多少？")
                assert "第7号灯笼的高度是" in answer.text
                text = rag.document_text(answer.citations[0].document_id)
                assert text is None or "灯笼" in text
                count += 1
            return count

        with ThreadPoolExecutor(4) as threads:
            counts = [threads.submit(ask) for _ in range(4)]
            try:
                for version in range(2, 5):
                    rag.add([note(n, version) for n in range(30)], use_tqdm=False)
                    assert all(rag.delete(f"note-{n}") for n in range(20, 30))
            finally:
                stop.set()
        assert all(count.result() > 0 for count in counts)
        assert rag.ask("第7号灯笼的高度是多少？").text.startswith("第7号灯笼的高度是4米。")
        assert len(rag.documents()) == 20


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    with (
        RAGPipeline.open(tmp_path, embedder=FakeEmbedder()) as one,
        RAGPipeline.open(tmp_path, embedder=FakeEmbedder()) as two,
        ThreadPoolExecutor(2) as threads,
    ):
        jobs = [
            threads.submit(rag.add, [note(n) for n in numbers], use_tqdm=False)
            for rag, numbers in ((one, range(40)), (two, range(40, 80)))
        ]
        assert all(len(job.result().added) == 40 for job in jobs)
        assert len(one.documents()) == 80
        for rag in (one, two):
            assert rag.ask("第63号灯笼的高度是多少？").citations[0].source == "note-63"


def test_one_question_does_not_wait_for_a_long_add(tmp_path: Path) -> None:
    entered, release = threading.Event(), threading.Event()

    def wait() -> None:
        if threading.current_thread().name == "adder":
            entered.set()
            assert release.wait(30)

    with RAGPipeline.open(tmp_path, embedder=FakeEmbedder(before_embedding=wait), reranker=FakeReranker()) as rag:
        rag.add(note(7), use_tqdm=False)
        adder = threading.Thread(target=rag.add, args=(note(8),), kwargs={"use_tqdm": False}, name="adder")
        adder.start()
        assert entered.wait(30)
        assert rag.ask("第7号灯笼的高度是多少？").citations
        release.set()
        adder.join()
        assert len(rag.documents()) == 2
