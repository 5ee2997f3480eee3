"""Tables of the knowledge base, and rows to objects. Knows no connections."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from carrel_rag.schema import Chunk, DocumentInfo

STORE_VERSION = "1"

# AUTOINCREMENT: the id of a chunk that is gone never comes back, so a late search hit cannot name another chunk.
SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS documents (
    id TEXT PRIMARY KEY,
    source TEXT NOT NULL UNIQUE,
    title TEXT NOT NULL,
    media_type TEXT NOT NULL,
    content_hash TEXT NOT NULL,
    text TEXT NOT NULL,
    metadata TEXT NOT NULL,
    num_chunks INTEGER NOT NULL,
    created TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
CREATE INDEX IF NOT EXISTS documents_content ON documents (content_hash);
CREATE TABLE IF NOT EXISTS chunks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    document_id TEXT NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
    ordinal INTEGER NOT NULL,
    start INTEGER NOT NULL,
    "end" INTEGER NOT NULL,
    page INTEGER,
    section TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS chunks_document ON chunks (document_id, ordinal);
CREATE TABLE IF NOT EXISTS vectors (
    chunk_id INTEGER PRIMARY KEY REFERENCES chunks (id) ON DELETE CASCADE,
    vector BLOB NOT NULL
);
CREATE VIRTUAL TABLE IF NOT EXISTS terms USING fts5 (words, tokenize = "unicode61 remove_diacritics 2");
COMMIT;
"""

DOCUMENT_COLUMNS = "id, source, title, media_type, content_hash, num_chunks, length(text), metadata"
CHUNK_COLUMNS = (
    'c.id, c.document_id, d.source, d.title, d.media_type, c.ordinal, c.start, c."end",'
    ' substr(d.text, c.start + 1, c."end" - c.start), c.page, c.section, d.metadata'
)


def document_id(source: str) -> str:
    """A document's id: stable for its source."""
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def to_info(row: Sequence[Any]) -> DocumentInfo:
    """A row of ``DOCUMENT_COLUMNS``."""
    return DocumentInfo(
        id=row[0],
        source=row[1],
        title=row[2],
        media_type=row[3],
        content_hash=row[4],
        num_chunks=row[5],
        num_characters=row[6],
        metadata=json.loads(row[7]),
    )


def to_chunk(row: Sequence[Any]) -> Chunk:
    """A row of ``CHUNK_COLUMNS``."""
    return Chunk(
        id=row[0],
        document_id=row[1],
        source=row[2],
        title=row[3],
        media_type=row[4],
        ordinal=row[5],
        start=row[6],
        end=row[7],
        text=row[8],
        page=row[9],
        section=tuple(json.loads(row[10])),
        metadata=json.loads(row[11]),
    )
