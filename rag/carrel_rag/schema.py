"""The nouns of the pipeline: what goes in, what is stored, what comes out. Knows no model, no file format, no database.

Offsets are counted in characters of :attr:`Document.text`, the text as it was extracted: ``text[start:end]`` is exactly
the chunk, or the quote. For a plain text file that is the decoded file itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["auto", "generative", "extractive"]
FileState = Literal["added", "updated", "unchanged", "duplicate", "failed"]
MetadataValue = str | int | float | bool | None

HEADING_SEPARATOR = " › "


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text to index that is in memory already, or the record of an indexed one.

    >>> Document(text="The harbour has 4,812 lanterns.", source="harbour-note", title="Harbour").title
    'Harbour'
    """

    text: str
    source: str  # what names it: an absolute path for a file, anything unique otherwise
    title: str = ""
    media_type: str = "text/plain"
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DocumentInfo:
    """One line of ``RAGPipeline.documents()``."""

    id: str
    source: str
    title: str
    media_type: str
    content_hash: str  # sha256 of the file's bytes, or of the text
    num_chunks: int
    num_characters: int
    metadata: Mapping[str, MetadataValue]

    @property
    def name(self) -> str:
        """The file's name without its folders."""
        return self.source.replace("\\", "/").rsplit("/", 1)[-1]


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A passage of a document; ``document.text[start:end] == text``."""

    id: int  # stable while the document is not replaced
    document_id: str
    source: str
    title: str
    media_type: str
    ordinal: int  # place among the document's chunks, from 0
    start: int
    end: int
    text: str
    page: int | None  # from 1
    section: tuple[str, ...]  # headings from the outermost in
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)

    @property
    def heading(self) -> str:
        """The section path as one string; empty without headings."""
        return HEADING_SEPARATOR.join(self.section)

    @property
    def context(self) -> str:
        """Title and headings in one line, what stands over the passage; empty without."""
        return HEADING_SEPARATOR.join(dict.fromkeys(part for part in (self.title, *self.section) if part))

    @property
    def name(self) -> str:
        """The document's file name without its folders."""
        return self.source.replace("\\", "/").rsplit("/", 1)[-1]


@dataclass(frozen=True, kw_only=True)
class RetrievedChunk(Chunk):
    """A passage found for a question, with what each stage thought of it."""

    score: float  # the order of the result: higher is better
    dense_score: float | None = None  # cosine, None if the dense stage did not find it
    lexical_score: float | None = None  # BM25, higher is better, None if no term matched
    rerank_score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Citation:
    """Where a statement stands: ``[number]`` in the answer's text is ``answer.chunks[number - 1]``."""

    number: int
    document_id: str
    source: str
    title: str
    page: int | None
    heading: str
    quote: str  # verbatim: document.text[start:end]
    start: int
    end: int
    chunk_id: int
    score: float  # of the quoted sentence in the extractive mode, otherwise of the passage

    @property
    def name(self) -> str:
        """The document's file name without its folders."""
        return self.source.replace("\\", "/").rsplit("/", 1)[-1]

    @property
    def place(self) -> str:
        """Page or heading, for people: ``page 3`` or ``Care › Watering``; empty if neither is known."""
        page = f"page {self.page}" if self.page is not None else ""
        return ", ".join(part for part in (page, self.heading) if part)


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens of the chat model; zero in the extractive mode."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Seconds of each stage, on the wall clock."""

    retrieve: float = 0.0  # question's vector, both searches, fusion
    rerank: float = 0.0
    first_token: float | None = None  # from the question to the first text of the answer
    total: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer and what it rests on. ``abstained`` is true when the documents do not hold one."""

    question: str
    text: str
    citations: tuple[Citation, ...]
    chunks: tuple[RetrievedChunk, ...]
    usage: Usage
    timings: Timings
    mode: Literal["generative", "extractive"]
    abstained: bool = False
    finish_reason: Literal["stop", "length"] = "stop"


@dataclass(frozen=True, kw_only=True)
class RetrievedEvent:
    """First event of a stream: the passages, numbered from 1 as the answer will cite them."""

    chunks: tuple[RetrievedChunk, ...]
    timings: Timings
    type: Literal["retrieved"] = "retrieved"


@dataclass(frozen=True, kw_only=True)
class NoContextEvent:
    """No passage is good enough: the answer will be the abstention sentence, and no model is asked."""

    reason: str
    type: Literal["no_context"] = "no_context"


@dataclass(frozen=True, kw_only=True)
class DeltaEvent:
    """A piece of the answer's text; never half a citation, never an invalid one."""

    text: str
    type: Literal["delta"] = "delta"


@dataclass(frozen=True, kw_only=True)
class CitationEvent:
    """A citation of the answer, after the text that holds it."""

    citation: Citation
    type: Literal["citation"] = "citation"


@dataclass(frozen=True, kw_only=True)
class AnswerEvent:
    """Last event of a stream: the whole answer."""

    answer: Answer
    type: Literal["answer"] = "answer"


Event = RetrievedEvent | NoContextEvent | DeltaEvent | CitationEvent | AnswerEvent


@dataclass(frozen=True, kw_only=True)
class FileStatus:
    """What became of one file or text."""

    source: str
    state: FileState
    num_chunks: int = 0
    error: str | None = None  # why it failed, in one sentence
    duplicate_of: str | None = None

    @property
    def name(self) -> str:
        """The file's name without its folders."""
        return self.source.replace("\\", "/").rsplit("/", 1)[-1]


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """What became of everything that was given to ``add``."""

    files: tuple[FileStatus, ...]
    seconds: float

    def _of(self, *states: FileState) -> tuple[FileStatus, ...]:
        return tuple(status for status in self.files if status.state in states)

    @property
    def added(self) -> tuple[FileStatus, ...]:
        """New and replaced documents."""
        return self._of("added", "updated")

    @property
    def skipped(self) -> tuple[FileStatus, ...]:
        """Documents that were there already, under this name or another."""
        return self._of("unchanged", "duplicate")

    @property
    def failed(self) -> tuple[FileStatus, ...]:
        return self._of("failed")

    @property
    def num_chunks(self) -> int:
        """Chunks written by this call."""
        return sum(status.num_chunks for status in self.added)
