"""The store: one transaction per document, replacement, search terms in Chinese, and a process killed in the middle."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from carrel_rag.errors import KnowledgeBaseClosedError, KnowledgeBaseError
from carrel_rag.index import VectorIndex
from carrel_rag.lexical import query_terms
from carrel_rag.schema import Document
from carrel_rag.snapshot import Snapshot
from carrel_rag.splitter import TextChunk
from carrel_rag.store import Store, _why_not_open
from carrel_rag.store_schema import document_id

TEXT = "墨玉卡会员按1.5倍累积积分。\n\nThe harbour has lanterns 😀 in rows.\n\n退货电话在杭州。"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "knowledge.sqlite3")
    yield opened
    opened.close()


def now(store: Store) -> Snapshot:
    """The store as it is now."""
    with store.snapshot() as snapshot:
        return snapshot


def pieces(text: str) -> list[TextChunk]:
    chunks, start = [], 0
    for part in text.split("\n\n"):
        chunks.append(TextChunk(start, start + len(part), 1, ("章",)))
        start += len(part) + 2
    return chunks


def vectors(count: int, dim: int = 4) -> np.ndarray:
    rows = np.random.default_rng(count).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def put(store: Store, text: str = TEXT, source: str = "/a.md", **more: object) -> list[int]:
    chunks = pieces(text)
    document = Document(text=text, source=source, title="标题", **more)  # type: ignore[arg-type]  # metadata only
    return store.put(document, f"hash of {text}", chunks, vectors(len(chunks))).added


def test_chunks_come_back_as_the_text_between_their_offsets(store: Store) -> None:
    ids = put(store)
    chunks = now(store).chunks(ids)
    assert [chunks[i].text for i in ids] == TEXT.split("\n\n")
    assert all(TEXT[chunks[i].start : chunks[i].end] == chunks[i].text for i in ids)
    assert chunks[ids[0]].section == ("章",)
    assert now(store).document_text(document_id("/a.md")) == TEXT


def test_chinese_is_found_by_its_words(store: Store) -> None:
    ids = put(store)
    assert now(store).search_terms(query_terms("退货的电话是多少"), 5)[0][0] == ids[2]
    assert [i for i, _ in now(store).search_terms(query_terms("墨玉卡"), 5)] == [ids[0]]
    assert [i for i, _ in now(store).search_terms(query_terms("a lantern"), 5)] == [ids[1]]
    assert now(store).search_terms(query_terms("长颈鹿"), 5) == []
    assert now(store).search_terms(['" OR x', "NEAR(", "*"], 5) == []


def test_titles_and_headings_are_searched_too(store: Store) -> None:
    ids = put(store)
    assert {i for i, _ in now(store).search_terms(["标题"], 5)} == set(ids)


def test_a_document_of_the_same_source_is_replaced(store: Store) -> None:
    old = put(store)
    change = store.put(Document(text="新的内容", source="/a.md"), "h2", [TextChunk(0, 4, None, ())], vectors(1))
    assert change.removed == old
    assert not set(change.added) & set(old)
    assert now(store).chunks(old) == {}
    assert now(store).search_terms(["墨玉"], 5) == []
    assert [info.content_hash for info in now(store).documents()] == ["h2"]


def test_a_failure_leaves_the_old_document(store: Store) -> None:
    old = put(store)
    generation = now(store).generation
    broken = [TextChunk(0, 2, None, ()), TextChunk(2, 4, None, ({1, 2},))]  # type: ignore[arg-type]  # no JSON: fails
    with pytest.raises(TypeError):
        store.put(Document(text="新的内容", source="/a.md"), "h2", broken, vectors(2))
    assert sorted(now(store).chunks(old)) == old
    assert now(store).document_text(document_id("/a.md")) == TEXT
    assert now(store).generation == generation
    assert put(store, "还能写。") != []


def test_deleting(store: Store) -> None:
    ids = put(store)
    change = store.delete(document_id("/a.md"))
    assert change is not None
    assert change.removed == ids
    assert store.delete(document_id("/a.md")) is None
    assert now(store).vectors()[1] == []
    assert now(store).document_frequencies(["墨玉"]) == ({"墨玉": 0}, 0)


def test_metadata_filters(store: Store) -> None:
    first = put(store, source="/a.md", metadata={"年": 2026, "lang": "zh"})
    second = put(store, "别的内容。", source="/b.md", metadata={"年": 2025, "lang": "zh"})
    assert now(store).chunk_ids({"年": 2026}) == first
    assert now(store).chunk_ids({"lang": "zh", "年": 2025}) == second
    assert now(store).chunk_ids({"source": "/b.md"}) == second
    assert now(store).chunk_ids({"年": "2026"}) == []
    assert [i for i, _ in now(store).search_terms(["内容", "墨玉"], 5, allowed=second)] == second


def test_a_number_that_json_does_not_know_breaks_no_filter(store: Store) -> None:
    put(store, source="/old.md", metadata={"price": float("nan"), "lang": "zh"})  # an earlier version let it in
    good = put(store, "别的内容。", source="/b.md", metadata={"lang": "zh"})
    assert now(store).chunk_ids({"lang": "zh"}) == good


def test_a_file_that_is_no_knowledge_base(tmp_path: Path) -> None:
    path = tmp_path / "knowledge.sqlite3"
    path.write_text("这不是数据库" * 100, encoding="utf-8")
    with pytest.raises(KnowledgeBaseError, match="not a knowledge base"):
        Store(path)


def test_another_program_s_database_is_no_knowledge_base(tmp_path: Path) -> None:
    path = tmp_path / "knowledge.sqlite3"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE documents (id TEXT)")
    other.close()
    with pytest.raises(KnowledgeBaseError, match="not a knowledge base"):
        Store(path)


def test_a_locked_file_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carrel_rag.store._BUSY_SECONDS", 0.05)
    path = tmp_path / "knowledge.sqlite3"
    store = Store(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(KnowledgeBaseError, match="cannot be opened: database is locked"):
        Store(path)
    with pytest.raises(KnowledgeBaseError, match="cannot be written: database is locked"):
        put(store)
    other.execute("ROLLBACK")
    other.close()
    assert put(store) != []
    store.close()


def test_a_file_out_of_reach_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(KnowledgeBaseError, match="cannot be opened: unable to open database file"):
        Store(tmp_path / "nowhere" / "knowledge.sqlite3")


def test_a_file_that_cannot_be_written_is_told_as_such() -> None:
    error = sqlite3.OperationalError("attempt to write a readonly database")
    error.sqlite_errorcode = sqlite3.SQLITE_READONLY
    assert "cannot be opened: attempt to write a readonly database" in _why_not_open(Path("kb"), error)


def test_closing_twice_and_using_after(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(KnowledgeBaseClosedError):
        now(store).documents()
    with pytest.raises(KnowledgeBaseClosedError):
        put(store)


def test_the_index_follows_commits_of_this_process_and_of_others(store: Store, tmp_path: Path) -> None:
    index = VectorIndex(store, 4)
    chunks = pieces(TEXT)
    change = index.commit(lambda: store.put(Document(text=TEXT, source="/a.md"), "h", chunks, vectors(3)))
    assert change is not None
    assert len(index) == 3
    assert index.search(vectors(3)[1], 1)[1][0][0] == change.added[1]
    other = Store(tmp_path / "knowledge.sqlite3")
    added = put(other, "另一个进程写的。", "/b.md")
    other.delete(document_id("/a.md"))
    other.close()
    index.refresh()
    assert [i for i, _ in index.search(vectors(3)[1], 9)[1]] == added


def test_the_index_searches_only_what_is_allowed(store: Store) -> None:
    ids = put(store)
    index = VectorIndex(store, 4)
    assert [i for i, _ in index.search(vectors(3)[0], 3, allowed=[ids[2]])[1]] == [ids[2]]


def test_numbers_that_are_not_finite_are_refused(store: Store) -> None:
    index = VectorIndex(store, 4)
    with pytest.raises(KnowledgeBaseError, match="not finite"):
        index.search(np.array([1, 2, np.nan, 4], np.float32), 1)
    with pytest.raises(KnowledgeBaseError, match="dimension"):
        index.search(np.ones(5, np.float32), 1)


WRITER = """
import sys
from pathlib import Path
from carrel_rag import RAGPipeline, Document
from rag_fakes import FakeEmbedder, FakeReranker

text = "\\n\\n".join(f"第{i}号灯笼 lantern number {i} burns colza oil on the quay." for i in range(300))
with RAGPipeline.open(sys.argv[1], embedder=FakeEmbedder(), reranker=FakeReranker()) as rag:
    version = 0
    while True:
        version += 1
        sources = [Document(text=f"version {version} of {name}\\n\\n{text}", source=name) for name in ("甲", "乙")]
        rag.add(sources, use_tqdm=False)
        print(version, flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no kill -9")
def test_a_process_killed_while_it_writes_leaves_whole_documents(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    for pause in (0.02, 0.09):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, env=environment, text=True
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline(), "the writer wrote at least once"
            time.sleep(pause)
            process.kill()
        check_whole(tmp_path / "default" / "knowledge.sqlite3")


def check_whole(path: Path) -> None:
    store = Store(path)
    documents = now(store).documents()
    assert {info.source for info in documents} == {"甲", "乙"}
    _, ids, rows = now(store).vectors()
    assert len(ids) == len(rows) == sum(info.num_chunks for info in documents)
    assert set(now(store).chunks(ids)) == set(ids)
    assert len(now(store).search_terms(["lantern"], 10_000)) == len(ids)
    assert len(VectorIndex(store, rows.shape[1])) == len(ids)
    store.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
