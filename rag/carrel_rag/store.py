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
from carrel_rag.schema import Chunk, Document, DocumentInfo, MetadataValue
from carrel_rag.splitter import TextChunk
from carrel_rag.store_schema import CHUNK_COLUMNS, DOCUMENT_COLUMNS, SCHEMA, document_id, to_chunk, to_info

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
        self._readers: LifoQueue[sqlite3.Connection] = LifoQueue()
        try:
            self._writer = self._connect()
            self._writer.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise KnowledgeBaseError(f"{path} is not a knowledge base of carrel: {error}.") from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")  # a crash of the machine may lose the last commits, never break
        connection.execute("PRAGMA foreign_keys=ON")
        return connection

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own for each thread that reads now; it sees one snapshot."""
        if self._closed:
            raise KnowledgeBaseClosedError("the knowledge base was closed; open it again.")
        try:
            connection = self._readers.get_nowait()
        except Empty:
            connection = self._connect()
        try:
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.execute("ROLLBACK")
            self._give_back(connection)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        if self._closed:
            connection.close()
        else:
            self._readers.put(connection)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._write_lock:
            if self._closed:
                raise KnowledgeBaseClosedError("the knowledge base was closed; open it again.")
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            except BaseException:
                self._writer.execute("ROLLBACK")
                raise
            self._writer.execute("COMMIT")

    # ── the manifest ──────────────────────────────────────────────────────────────────────────────────────────────

    def fingerprint(self) -> dict[str, str] | None:
        """What the knowledge base was built with; None before the first time."""
        with self._reading() as db:
            row = db.execute("SELECT value FROM meta WHERE key = 'fingerprint'").fetchone()
        return json.loads(row[0]) if row else None

    def set_fingerprint(self, fingerprint: Mapping[str, str]) -> None:
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('fingerprint', ?)", (json.dumps(dict(fingerprint)),))

    @property
    def generation(self) -> int:
        """Number of commits so far, of this process and of others."""
        with self._reading() as db:
            return _generation(db)

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

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────

    def documents(self) -> list[DocumentInfo]:
        with self._reading() as db:
            rows = db.execute(f"SELECT {DOCUMENT_COLUMNS} FROM documents ORDER BY source").fetchall()
        return [to_info(row) for row in rows]

    def find_document(self, doc_id: str) -> DocumentInfo | None:
        return self._one_document("id = ?", doc_id)

    def find_content(self, content_hash: str) -> DocumentInfo | None:
        """A document of these bytes, under whatever name."""
        return self._one_document("content_hash = ? ORDER BY created LIMIT 1", content_hash)

    def _one_document(self, condition: str, value: str) -> DocumentInfo | None:
        with self._reading() as db:
            row = db.execute(f"SELECT {DOCUMENT_COLUMNS} FROM documents WHERE {condition}", (value,)).fetchone()
        return to_info(row) if row else None

    def document_text(self, doc_id: str) -> str | None:
        """The whole text that offsets count in."""
        with self._reading() as db:
            row = db.execute("SELECT text FROM documents WHERE id = ?", (doc_id,)).fetchone()
        return str(row[0]) if row else None

    def chunks(self, ids: Sequence[int]) -> dict[int, Chunk]:
        """Chunks by id; ids that are gone are left out."""
        marks = ",".join("?" * len(ids))
        query = f"SELECT {CHUNK_COLUMNS} FROM chunks c JOIN documents d ON d.id = c.document_id WHERE c.id IN ({marks})"
        with self._reading() as db:
            return {int(row[0]): to_chunk(row) for row in db.execute(query, list(ids))}

    def search_terms(
        self, terms: Sequence[str], limit: int, allowed: Sequence[int] | None = None
    ) -> list[tuple[int, float]]:
        """Chunk ids (of ``allowed``, if given) by descending BM25; any of the terms is enough."""
        if not terms:
            return []
        only = "" if allowed is None else " AND rowid IN (SELECT value FROM json_each(:allowed))"
        query = (
            f"SELECT rowid, -bm25(terms) FROM terms WHERE terms MATCH :terms{only} ORDER BY rank, rowid LIMIT :limit"
        )
        values = {"terms": _match_any(terms), "limit": limit, "allowed": json.dumps(list(allowed or ()))}
        with self._reading() as db:
            return [(int(i), float(score)) for i, score in db.execute(query, values)]

    def chunk_ids(self, where: Mapping[str, MetadataValue]) -> list[int]:
        """The chunks of documents whose metadata has these values; ``document_id`` and ``source`` are keys, too."""
        columns = {"document_id": "d.id", "source": "d.source"}
        tests = [f"{columns[key]} IS ?" if key in columns else "json_extract(d.metadata, ?) IS ?" for key in where]
        values: list[MetadataValue] = []
        for key, value in where.items():
            values += [value] if key in columns else [f'$."{key}"', value]
        query = f"SELECT c.id FROM chunks c JOIN documents d ON d.id = c.document_id WHERE {' AND '.join(tests)}"
        with self._reading() as db:
            return [int(row[0]) for row in db.execute(query, values)]

    def document_frequencies(self, terms: Sequence[str]) -> tuple[dict[str, int], int]:
        """In how many chunks each term stands, and how many chunks there are."""
        query = "SELECT count(*) FROM terms WHERE terms MATCH ?"
        with self._reading() as db:
            counts = {term: int(db.execute(query, (_match_any([term]),)).fetchone()[0]) for term in terms}
            return counts, int(db.execute("SELECT count(*) FROM chunks").fetchone()[0])

    def vectors(self) -> tuple[int, list[int], FloatArray]:
        """``(generation, chunk ids, vectors [n, dim])`` of one snapshot."""
        with self._reading() as db:
            rows = db.execute("SELECT chunk_id, vector FROM vectors ORDER BY chunk_id").fetchall()
            generation = _generation(db)
        data = np.frombuffer(b"".join(row[1] for row in rows), dtype="<f4")
        return (
            generation,
            [int(row[0]) for row in rows],
            data.reshape(len(rows), -1) if rows else np.zeros((0, 0), np.float32),
        )

    def close(self) -> None:
        """Closes the file; may be called again. Reads in flight end first."""
        with self._write_lock:
            if self._closed:
                return
            self._closed = True
            while not self._readers.empty():
                self._readers.get_nowait().close()
            self._writer.close()


def _generation(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT value FROM meta WHERE key = 'generation'").fetchone()
    return int(row[0]) if row else 0


def _next_generation(db: sqlite3.Connection) -> int:
    generation = _generation(db) + 1
    db.execute("INSERT OR REPLACE INTO meta VALUES ('generation', ?)", (str(generation),))
    return generation


def _match_any(terms: Sequence[str]) -> str:
    return " OR ".join('"' + term.replace('"', '""') + '"' for term in terms)


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
