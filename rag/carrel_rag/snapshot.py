"""What can be read of a knowledge base, all of it at one moment. Writes nothing.

A search asks for terms, then for chunks, then for frequencies; a document that is replaced in between must not fall
out of the answer, so all of them look at one snapshot.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence

import numpy as np

from carrel_rag.protocols import FloatArray
from carrel_rag.schema import Chunk, DocumentInfo, MetadataValue
from carrel_rag.store_schema import CHUNK_COLUMNS, DOCUMENT_COLUMNS, to_chunk, to_info


class Snapshot:
    """One read transaction; use :meth:`Store.snapshot`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def fingerprint(self) -> dict[str, str] | None:
        """What the knowledge base was built with; None before the first time."""
        row = self._db.execute("SELECT value FROM meta WHERE key = 'fingerprint'").fetchone()
        return json.loads(row[0]) if row else None

    @property
    def generation(self) -> int:
        """Number of commits so far, of this process and of others."""
        return read_generation(self._db)

    def documents(self) -> list[DocumentInfo]:
        rows = self._db.execute(f"SELECT {DOCUMENT_COLUMNS} FROM documents ORDER BY source").fetchall()
        return [to_info(row) for row in rows]

    def find_document(self, doc_id: str) -> DocumentInfo | None:
        row = self._db.execute(f"SELECT {DOCUMENT_COLUMNS} FROM documents WHERE id = ?", (doc_id,)).fetchone()
        return to_info(row) if row else None

    def find_contents(self, content_hash: str) -> list[DocumentInfo]:
        """The documents of these bytes, under whatever names, the oldest first."""
        query = f"SELECT {DOCUMENT_COLUMNS} FROM documents WHERE content_hash = ? ORDER BY created, source"
        return [to_info(row) for row in self._db.execute(query, (content_hash,))]

    def document_text(self, doc_id: str) -> str | None:
        """The whole text that offsets count in."""
        row = self._db.execute("SELECT text FROM documents WHERE id = ?", (doc_id,)).fetchone()
        return str(row[0]) if row else None

    def chunks(self, ids: Sequence[int]) -> dict[int, Chunk]:
        """Chunks by id; ids that are gone are left out."""
        marks = ",".join("?" * len(ids))
        query = f"SELECT {CHUNK_COLUMNS} FROM chunks c JOIN documents d ON d.id = c.document_id WHERE c.id IN ({marks})"
        return {int(row[0]): to_chunk(row) for row in self._db.execute(query, list(ids))}

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
        return [(int(i), float(score)) for i, score in self._db.execute(query, values)]

    def chunk_ids(self, where: Mapping[str, MetadataValue]) -> list[int]:
        """The chunks of documents whose metadata has these values; ``document_id`` and ``source`` are keys, too."""
        columns = {"document_id": "d.id", "source": "d.source"}
        # NaN and infinities are refused now; a document that was stored with one is not found, and breaks no question.
        found = "CASE WHEN json_valid(d.metadata) THEN json_extract(d.metadata, ?) END"
        tests = [f"{columns.get(key, found)} IS ?" for key in where]
        values: list[MetadataValue] = []
        for key, value in where.items():
            values += [value] if key in columns else [f'$."{key}"', value]
        query = f"SELECT c.id FROM chunks c JOIN documents d ON d.id = c.document_id WHERE {' AND '.join(tests)}"
        return [int(row[0]) for row in self._db.execute(query, values)]

    def document_frequencies(self, terms: Sequence[str]) -> tuple[dict[str, int], int]:
        """In how many chunks each term stands, and how many chunks there are."""
        query = "SELECT count(*) FROM terms WHERE terms MATCH ?"
        counts = {term: int(self._db.execute(query, (_match_any([term]),)).fetchone()[0]) for term in terms}
        return counts, int(self._db.execute("SELECT count(*) FROM chunks").fetchone()[0])

    def vectors(self) -> tuple[int, list[int], FloatArray]:
        """``(generation, chunk ids, vectors [n, dim])`` of one snapshot."""
        rows = self._db.execute("SELECT chunk_id, vector FROM vectors ORDER BY chunk_id").fetchall()
        generation = read_generation(self._db)
        data = np.frombuffer(b"".join(row[1] for row in rows), dtype="<f4")
        return (
            generation,
            [int(row[0]) for row in rows],
            data.reshape(len(rows), -1) if rows else np.zeros((0, 0), np.float32),
        )

    def vectors_of(self, ids: Sequence[int]) -> dict[int, FloatArray]:
        """The vectors ``[dim]`` of chunks by id; ids that are gone are left out."""
        query = f"SELECT chunk_id, vector FROM vectors WHERE chunk_id IN ({','.join('?' * len(ids))})"
        return {int(i): np.frombuffer(vector, dtype="<f4") for i, vector in self._db.execute(query, list(ids))}


def read_generation(db: sqlite3.Connection) -> int:
    """Number of commits so far."""
    row = db.execute("SELECT value FROM meta WHERE key = 'generation'").fetchone()
    return int(row[0]) if row else 0


def _match_any(terms: Sequence[str]) -> str:
    return " OR ".join('"' + term.replace('"', '""') + '"' for term in terms)
