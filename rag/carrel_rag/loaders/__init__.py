"""Files to text with structure. ``load_file`` decides by content what a file is; each format has its own module."""

from carrel_rag.loaders.extracted import Extracted, Span, TextBuilder
from carrel_rag.loaders.limits import Limits
from carrel_rag.loaders.loader import load_bytes, load_file

__all__ = ["Extracted", "Limits", "Span", "TextBuilder", "load_bytes", "load_file"]
