"""The knowledge base on disk: one SQLite file is the only durable truth. Knows no model, no file format, no FAISS.

One writer at a time, any number of readers; a document is written in one transaction, so that a process that is killed
leaves either the old document or the new one. ``generation`` counts commits: whoever holds the vectors compares it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, LifoQueue
from typing import Any

import numpy as np

from carrel_rag.errors import KnowledgeBaseClosedError, KnowledgeBaseError
from carrel_rag.lexical import index_terms
from carrel_rag.protocols import FloatArray
from carrel_rag.schema import Document
from carrel_rag.snapshot import Snapshot, read_generation
from carrel_rag.splitter import TextChunk
from carrel_rag.store_schema import SCHEMA, document_id

_BUSY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Change:
    """What one commit did: chunk ids gone, chunk ids new with their vectors ``[n, dim]``."""

    generation: int
    removed: list[int]
    added: list[int]
    vectors: FloatArray


class Store:
    """Documents, chunks, vectors and search terms of one knowledge base."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._closed = False
        self._write_lock = threading.Lock()
        self._pool_lock = threading.Lock()  # so that a reader is not put back behind the back of close()
        self._readers: LifoQueue[sqlite3.Connection] = LifoQueue()
        self._writer = self._connect(SCHEMA)

    def _connect(self, script: str = "") -> sqlite3.Connection:
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(
                self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")  # a power cut may lose the last commits, never break
            connection.execute("PRAGMA foreign_keys=ON")
            connection.executescript(script)
        except sqlite3.DatabaseError as error:
            if connection is not None:
                connection.close()
            raise KnowledgeBaseError(_why_not_open(self._path, error)) from error
        return connection

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """The knowledge base as it is now; what is committed meanwhile is not seen. Any number may be open at once."""
        if self._closed:
            raise KnowledgeBaseClosedError("the knowledge base was closed; open it again.")
        try:
            connection = self._readers.get_nowait()
        except Empty:
            connection = self._connect()
        try:
            connection.execute("BEGIN")
            yield Snapshot(connection)
        finally:
            connection.execute("ROLLBACK")
            self._give_back(connection)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._pool_lock:
            if self._closed:
                connection.close()
            else:
                self._readers.put(connection)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._write_lock:
            if self._closed:
                raise KnowledgeBaseClosedError("the knowledge base was closed; open it again.")
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
            except sqlite3.Error as error:  # such as a full disk
                raise KnowledgeBaseError(f"the knowledge base {self._path} cannot be written: {error}.") from error
            finally:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")

    # ── the manifest ──────────────────────────────────────────────────────────────────────────────────────────────

    def set_fingerprint(self, fingerprint: Mapping[str, str]) -> None:
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('fingerprint', ?)", (json.dumps(dict(fingerprint)),))

    # ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def put(self, document: Document, content_hash: str, chunks: Sequence[TextChunk], vectors: FloatArray) -> Change:
        """Writes a document, in place of the one with the same source if there is one, in one transaction."""
        assert len(chunks) == len(vectors), "one vector per chunk"
        with self._writing() as db:
            removed = _delete(db, document_id(document.source))
            _insert_document(db, document, content_hash, len(chunks))
            added = [_insert_chunk(db, document, i, chunk, vectors[i]) for i, chunk in enumerate(chunks)]
            return Change(_next_generation(db), removed, added, vectors)

    def delete(self, doc_id: str) -> Change | None:
        """Removes a document; None if there is none of that id."""
        with self._writing() as db:
            if db.execute("SELECT 1 FROM documents WHERE id = ?", (doc_id,)).fetchone() is None:
                return None
            removed = _delete(db, doc_id)
            return Change(_next_generation(db), removed, [], np.zeros((0, 0), np.float32))

    def close(self) -> None:
        """Closes the file; may be called again. Reads in flight end first."""
        with self._write_lock, self._pool_lock:
            if self._closed:
                return
            self._closed = True
            while not self._readers.empty():
                self._readers.get_nowait().close()
            self._writer.close()


def _why_not_open(path: Path, error: sqlite3.DatabaseError) -> str:
    """The file is locked, read-only or out of reach; or it holds something else, and then its tables do not fit."""
    operational = isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode != sqlite3.SQLITE_ERROR
    if not operational:
        return f"{path} is not a knowledge base of carrel: {error}."
    return f"{path} cannot be opened: {error}. The file and its folder must be writable, and no other program hold it."


def _next_generation(db: sqlite3.Connection) -> int:
    generation = read_generation(db) + 1
    db.execute("INSERT OR REPLACE INTO meta VALUES ('generation', ?)", (str(generation),))
    return generation


def _delete(db: sqlite3.Connection, doc_id: str) -> list[int]:
    ids = [int(row[0]) for row in db.execute("SELECT id FROM chunks WHERE document_id = ?", (doc_id,))]
    db.execute("DELETE FROM terms WHERE rowid IN (SELECT id FROM chunks WHERE document_id = ?)", (doc_id,))
    db.execute("DELETE FROM documents WHERE id = ?", (doc_id,))  # chunks and vectors go with it
    return ids


def _insert_document(db: sqlite3.Connection, document: Document, content_hash: str, num_chunks: int) -> None:
    values: tuple[Any, ...] = (
        document_id(document.source),
        document.source,
        document.title,
        document.media_type,
        content_hash,
        document.text,
        json.dumps(dict(document.metadata), ensure_ascii=False),
        num_chunks,
    )
    db.execute(
        "INSERT INTO documents (id, source, title, media_type, content_hash, text, metadata, num_chunks)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        values,
    )


def _insert_chunk(
    db: sqlite3.Connection, document: Document, ordinal: int, chunk: TextChunk, vector: FloatArray
) -> int:
    section = json.dumps(chunk.section, ensure_ascii=False)
    cursor = db.execute(
        'INSERT INTO chunks (document_id, ordinal, start, "end", page, section) VALUES (?, ?, ?, ?, ?, ?)',
        (document_id(document.source), ordinal, chunk.start, chunk.end, chunk.page, section),
    )
    chunk_id = cursor.lastrowid
    assert chunk_id is not None, "SQLite gives every new row an id"
    db.execute("INSERT INTO vectors VALUES (?, ?)", (chunk_id, np.ascontiguousarray(vector, "<f4").tobytes()))
    words = [document.title, *chunk.section, document.text[chunk.start : chunk.end]]
    db.execute("INSERT INTO terms (rowid, words) VALUES (?, ?)", (chunk_id, " ".join(index_terms("\n".join(words)))))
    return chunk_id
