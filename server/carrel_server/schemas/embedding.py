"""The body of ``/v1/embeddings``."""

from __future__ import annotations

from typing import Literal

from carrel.params import PoolingParams
from pydantic import StrictInt

from carrel_server.schemas.base import Body, as_list


class EmbeddingBody(Body):
    input: str | list[StrictInt] | list[str] | list[list[StrictInt]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    normalize: bool | None = None
    input_type: Literal["query", "document", "search_query", "search_document", "passage"] | None = None
    prompt_name: str | None = None
    truncate_prompt_tokens: int | None = None
    truncate: bool | Literal["NONE", "END"] | None = None

    @property
    def inputs(self) -> list[str | list[int]]:
        """One entry an input, however many were sent and in whichever of the four shapes."""
        return as_list(self.input)

    def pooling_params(self) -> PoolingParams:
        cut = self.truncate_prompt_tokens
        if cut is None and self.truncate in (True, "END"):
            cut = -1
        return PoolingParams(
            dimensions=self.dimensions,
            normalize=self.normalize,
            input_type=_input_type(self.input_type),
            prompt_name=self.prompt_name,
            truncate_prompt_tokens=cut,
        )


def _input_type(name: str | None) -> Literal["query", "document"] | None:
    """Cohere's and NVIDIA's spellings of the two."""
    if name is None:
        return None
    return "query" if name.endswith("query") else "document"
