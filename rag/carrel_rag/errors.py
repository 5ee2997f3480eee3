"""The errors of documents and knowledge bases; all are :class:`carrel.errors.CarrelError`.

::

    RAGError
    ├── DocumentError                    this document cannot be indexed; the others can
    │   ├── EmptyDocumentError           it holds no text at all
    │   ├── UnreadableDocumentError      damaged, or not of a type that carrel reads
    │   ├── NeedsOCRError                pictures of text, but no text
    │   ├── EncryptedDocumentError       it needs a password
    │   └── DocumentTooLargeError        over one of the limits; the message names it
    ├── SourceNotFoundError              the path to index does not exist
    └── KnowledgeBaseError               the knowledge base cannot be opened or written
        ├── KnowledgeBaseMismatchError   it was built with another embedding model or splitter
        └── KnowledgeBaseClosedError     close() was called
"""

from carrel.errors import CarrelError


class RAGError(CarrelError):
    """Base of the errors of this package."""


class DocumentError(RAGError):
    """This document cannot be indexed; the message says why and what to do."""


class EmptyDocumentError(DocumentError):
    """The document holds no text."""


class UnreadableDocumentError(DocumentError):
    """The document is damaged, or of a type that is not read."""


class NeedsOCRError(DocumentError):
    """The document holds pictures of text, but no text."""


class EncryptedDocumentError(DocumentError):
    """The document opens only with a password."""


class DocumentTooLargeError(DocumentError):
    """The document is over a limit, which the message names."""


class SourceNotFoundError(RAGError, FileNotFoundError):
    """The path to index does not exist."""


class KnowledgeBaseError(RAGError):
    """The knowledge base cannot be opened or written."""


class KnowledgeBaseMismatchError(KnowledgeBaseError):
    """The knowledge base was built with another embedding model or splitter."""


class KnowledgeBaseClosedError(KnowledgeBaseError):
    """The knowledge base was closed."""
