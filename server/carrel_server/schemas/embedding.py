"""The body of ``/v1/embeddings``, and what it has in common with the other bodies that hold inputs to pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from carrel.errors import InvalidParamsError
from carrel.params import PoolingParams
from pydantic import StrictInt

from carrel_server.schemas.base import Body, as_list

InputType = Literal["query", "document"]
CUTS = {"END": "right", "RIGHT": "right", "START": "left", "LEFT": "left"}  # Cohere's words and TEI's


class PoolingBody(Body):
    """One or many inputs, and how they are cut."""

    neutral: ClassVar[frozenset[str]] = frozenset({"user", "model", "metadata", "request_id", "cache_salt"})
    not_yet: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "messages": (),
        "mm_processor_kwargs": (),
        "padding": ("do_not_pad",),
        "embed_dtype": ("float32",),
        "endianness": ("native", "little"),
    }

    input: str | list[StrictInt] | list[str] | list[list[StrictInt]]
    truncate: bool | str | None = None  # TEI's switch, or Cohere's NONE, END and START
    truncate_prompt_tokens: int | None = None
    truncation_side: Literal["left", "right"] | None = None
    truncation_direction: str | None = None  # TEI's word for it
    add_special_tokens: bool = True

    @property
    def inputs(self) -> list[str | list[int]]:
        """One entry an input, however many were sent and in whichever of the four shapes."""
        return as_list(self.input)

    def truncation(self) -> dict[str, Any]:
        """The fields of ``PoolingParams`` that say how inputs are cut.

        Raises:
            InvalidParamsError: a word that is not known, or one that contradicts another field.
        """
        cut, side = cut_of(self.truncate)
        if self.truncate_prompt_tokens is not None:
            if self.truncate is not None and cut is None:
                message = "truncate forbids what truncate_prompt_tokens asks for; send one of them."
                raise InvalidParamsError(message, param="truncate")
            cut = self.truncate_prompt_tokens
        direction = None if self.truncation_direction is None else cut_of(self.truncation_direction)[1]
        side = self.truncation_side or direction or side
        return {"truncate_prompt_tokens": cut, "truncation_side": side or "right"}


def cut_of(truncate: bool | str | None) -> tuple[int | None, Literal["left", "right"] | None]:
    """To which length, -1 being the model's, and on which side.

    >>> cut_of(True), cut_of("START"), cut_of("none")
    ((-1, None), (-1, 'left'), (None, None))

    Raises:
        InvalidParamsError: a word that nobody uses.
    """
    if truncate is None or isinstance(truncate, bool):
        return (-1 if truncate else None), None
    word = truncate.upper()
    if word == "NONE":
        return None, None
    if word not in CUTS:
        message = f"truncate must be true, false, NONE, END or START, got {truncate!r:.80}."
        raise InvalidParamsError(message, param="truncate")
    return -1, "left" if CUTS[word] == "left" else "right"


class EmbeddingBody(PoolingBody):
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    normalize: bool | None = None
    use_activation: bool | None = None  # vLLM's word for normalize
    input_type: Literal["query", "document", "search_query", "search_document", "passage"] | None = None
    prompt_name: str | None = None
    instruction: str | None = None

    def pooling_params(self, input_type: InputType | None = None) -> PoolingParams:
        """``input_type`` is what the model's name asked for; the body's own word wins."""
        return PoolingParams(
            dimensions=self.dimensions,
            normalize=self.use_activation if self.normalize is None else self.normalize,
            input_type=_input_type(self.input_type) or input_type,
            prompt_name=self.prompt_name,
            instruction=self.instruction,
            add_special_tokens=self.add_special_tokens,
            **self.truncation(),
        )


def _input_type(name: str | None) -> InputType | None:
    """Cohere's and NVIDIA's spellings of the two."""
    if name is None:
        return None
    return "query" if name.endswith("query") else "document"
