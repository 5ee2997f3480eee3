"""From paths to stored chunks. One broken file fails alone; what is stored of a file is all of it or nothing.

Knows loaders, splitter, embedder and store; does not know questions.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from carrel.errors import EngineError
from tqdm import tqdm

from carrel_rag.errors import (
    DocumentError,
    EmptyDocumentError,
    KnowledgeBaseError,
    SourceNotFoundError,
    UnreadableDocumentError,
)
from carrel_rag.index import VectorIndex, check_vectors
from carrel_rag.knowledge_base import FILE_NAME
from carrel_rag.loaders import Extracted, Limits, load_bytes
from carrel_rag.loaders.limits import check_limit
from carrel_rag.loaders.plain import extract_plain
from carrel_rag.options import check_metadata
from carrel_rag.protocols import Embedder, FloatArray
from carrel_rag.schema import HEADING_SEPARATOR, Document, DocumentInfo, FileStatus, IngestReport, MetadataValue
from carrel_rag.splitter import SplitterConfig, TextChunk, split_document
from carrel_rag.store import Store
from carrel_rag.store_schema import document_id

Source = str | os.PathLike[str] | Document
Tell = Callable[[int, int], None]  # chunks embedded, chunks in the document
_BATCH = 128  # chunks embedded at once


@dataclass(frozen=True)
class Ingester:
    """Writes documents into one knowledge base."""

    store: Store
    index: VectorIndex
    embedder: Embedder
    splitter: SplitterConfig
    context_tokens: int  # room for title and headings in front of each chunk's text
    limits: Limits = field(default_factory=Limits)

    def add(
        self,
        sources: Source | Iterable[Source],
        *,
        metadata: Mapping[str, MetadataValue] | None = None,
        progress: bool = False,
        on_file: Callable[[FileStatus], None] | None = None,
    ) -> IngestReport:
        """Files, folders (all files below, hidden ones left out) and texts. ``on_file`` is told of each when it is
        done, so that the caller knows what is stored even if he interrupts.

        Raises:
            SourceNotFoundError: a path does not exist; nothing is read then.
            InvalidParamsError: ``metadata`` that is not text, numbers, true or false.
        """
        started = time.perf_counter()
        check_metadata(metadata or {}, "metadata")
        items = list(expand(sources))
        for item in items:
            check_metadata(item.metadata if isinstance(item, Document) else {}, "metadata")
        statuses = []
        with tqdm(items, desc="Indexing", unit="file", disable=not progress) as bar:
            for item in bar:
                name = _source_of(item).rsplit(os.sep, 1)[-1][-40:]
                bar.set_postfix_str(name)
                statuses.append(self._add_one(item, metadata or {}, partial(_tell, bar, name)))
                if on_file is not None:
                    on_file(statuses[-1])
        return IngestReport(files=tuple(statuses), seconds=time.perf_counter() - started)

    def _add_one(self, item: Path | Document, metadata: Mapping[str, MetadataValue], tell: Tell) -> FileStatus:
        """The border of one file: whatever is wrong with it stays with it."""
        source = _source_of(item)
        try:
            return self._index_one(item, source, metadata, tell)
        except DocumentError as error:
            return FileStatus(source=source, state="failed", error=str(error))
        except (EngineError, KnowledgeBaseError, MemoryError):
            raise  # not the file's fault: the next file would fail, too
        except Exception as error:
            return FileStatus(source=source, state="failed", error=f"cannot be read: {type(error).__name__}: {error}")

    def _index_one(
        self, item: Path | Document, source: str, metadata: Mapping[str, MetadataValue], tell: Tell
    ) -> FileStatus:
        if not source.isprintable() and any(0xD800 <= ord(char) < 0xE000 for char in source):
            raise UnreadableDocumentError("its name is not valid Unicode, so it cannot be cited. Rename the file.")
        data = self._bytes_of(item)
        content_hash = hashlib.sha256(data).hexdigest()
        with self.store.snapshot() as now:
            old = now.find_document(document_id(source))
            twins = now.find_contents(content_hash)
        merged = {**metadata, **(item.metadata if isinstance(item, Document) else {})}
        alike = [twin for twin in twins if dict(twin.metadata) == merged and _title_fits(item, twin)]
        if old is not None and any(twin.source == source and _media_type_fits(item, twin) for twin in alike):
            return FileStatus(source=source, state="unchanged", num_chunks=old.num_chunks)
        if others := [twin.source for twin in alike if twin.source != source]:
            self._forget(source)
            return FileStatus(source=source, state="duplicate", duplicate_of=others[0])
        extracted = self._extract(item, data)
        chunks = split_document(extracted, self.embedder, self.splitter)
        check_limit(len(chunks), self.limits.max_chunks, "max_chunks", "chunks in the document")
        vectors = self._embed(extracted, chunks, tell)
        document = Document(
            text=extracted.text,
            source=source,
            title=extracted.title,
            media_type=extracted.media_type,
            metadata={**extracted.metadata, **merged},
        )
        self.index.commit(lambda: self.store.put(document, content_hash, chunks, vectors))
        return FileStatus(source=source, state="updated" if old else "added", num_chunks=len(chunks))

    def _bytes_of(self, item: Path | Document) -> bytes:
        if isinstance(item, Document):
            return item.text.encode("utf-8", "surrogatepass")
        if not item.is_file():  # reading a pipe or a device may never end
            raise UnreadableDocumentError("this is a pipe, a device or a socket; only files are read.")
        check_limit(item.stat().st_size, self.limits.max_file_bytes, "max_file_bytes", "bytes in the file")
        return item.read_bytes()

    def _extract(self, item: Path | Document, data: bytes) -> Extracted:
        if isinstance(item, Path):
            return load_bytes(data, item.name, self.limits)
        if not item.text.strip():
            raise EmptyDocumentError("the text is empty.")
        check_limit(len(item.text), self.limits.max_characters, "max_characters", "characters of text")
        plain = extract_plain(item.text)
        return Extracted(
            text=plain.text, spans=plain.spans, title=item.title or item.source, media_type=item.media_type
        )

    def _forget(self, source: str) -> None:
        """A file that became a copy of another one loses what was stored of it before."""
        self.index.commit(lambda: self.store.delete(document_id(source)))

    def _embed(self, extracted: Extracted, chunks: Sequence[TextChunk], tell: Tell) -> FloatArray:
        contexts: dict[tuple[str, ...], str] = {}
        texts = []
        for chunk in chunks:
            if chunk.section not in contexts:
                contexts[chunk.section] = self._context(extracted.title, chunk.section)
            texts.append(
                "\n".join(part for part in (contexts[chunk.section], extracted.text[chunk.start : chunk.end]) if part)
            )
        batches = []
        for start in range(0, len(texts), _BATCH):
            tell(start, len(texts))
            batches.append(self.embedder.embed_documents(texts[start : start + _BATCH]))
        return check_vectors(np.concatenate(batches), self.embedder.dim)

    def _context(self, title: str, section: Sequence[str]) -> str:
        """Title and headings, the innermost first to be kept, in at most ``context_tokens``."""
        parts = list(dict.fromkeys(part for part in (title, *section) if part))
        while parts and self.embedder.count_tokens([HEADING_SEPARATOR.join(parts)])[0] > self.context_tokens:
            parts.pop(0)
        return HEADING_SEPARATOR.join(parts)


def _tell(bar: tqdm[Path | Document], name: str, done: int, total: int) -> None:
    """Shows how far a long document is; short ones say nothing."""
    if total > _BATCH:
        bar.set_postfix_str(f"{name}: {done}/{total} passages")


def _source_of(item: Path | Document) -> str:
    return item.source if isinstance(item, Document) else str(item)


def _title_fits(item: Path | Document, stored: DocumentInfo) -> bool:
    """Whether the title says nothing new; a file's title comes from its bytes, and an empty one asks for none."""
    return isinstance(item, Path) or item.title in ("", stored.title)


def _media_type_fits(item: Path | Document, stored: DocumentInfo) -> bool:
    """Whether the media type is the stored one; a file's comes from its bytes and its name."""
    return isinstance(item, Path) or item.media_type == stored.media_type


def expand(sources: Source | Iterable[Source]) -> Iterator[Path | Document]:
    """Files in a stable order, each once, and texts as they are. A knowledge base below is left out.

    Raises:
        SourceNotFoundError: a path does not exist.
    """
    given = [sources] if isinstance(sources, str | os.PathLike | Document) else list(sources)
    seen: set[Path] = set()
    for source in given:
        if isinstance(source, Document):
            yield source
            continue
        if not os.fspath(source):
            raise SourceNotFoundError("a path to index is empty. Give a file or a folder; '.' is this one.")
        for path in _files(Path(source)):
            if path not in seen:
                seen.add(path)
                yield path


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise SourceNotFoundError(
            f"there is no file or folder {str(path)!r} to index (from {Path.cwd()}). Check the path."
        )
    resolved = path.resolve()
    if not resolved.is_dir():
        return [resolved]
    below = (p for p in resolved.rglob("*") if not any(part.startswith(".") for part in p.relative_to(resolved).parts))
    return sorted(p for p in below if p.is_file() and not p.name.startswith(FILE_NAME))  # nor SQLite's -wal and -shm
