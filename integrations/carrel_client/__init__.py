"""One model behind three doors: opened by name, shared with an engine that runs, or over HTTP.

The ground of the LangChain and LlamaIndex adapters. It knows sampling options, messages and tools as OpenAI writes
them, vectors and rankings; it does not know any framework. Everything an adapter does more than once stands here.

::

    adapter (LangChain | LlamaIndex)
       │  ConnectionFields: model= | llm= | base_url=
       ▼
    connection.Connection            opened on first use, closed once
       │
       ├── engine_backend.EngineBackend    carrel.LLM and carrel.AsyncLLM on one EngineHost
       └── server_backend.ServerBackend    httpx to the OpenAI routes of a carrel server
"""

from carrel_client.backend import Backend, ModelInfo, Piece, Reply, TextRequest, Usage
from carrel_client.chat_fields import ChatFields
from carrel_client.connection_fields import ConnectionFields
from carrel_client.errors import ServerError, ServerRefusedError, ServerUnreachableError
from carrel_client.retrieval_fields import EmbeddingFields, RerankFields
from carrel_client.sampling_fields import SamplingFields

__all__ = [
    "Backend",
    "ChatFields",
    "ConnectionFields",
    "EmbeddingFields",
    "ModelInfo",
    "Piece",
    "Reply",
    "RerankFields",
    "SamplingFields",
    "ServerError",
    "ServerRefusedError",
    "ServerUnreachableError",
    "TextRequest",
    "Usage",
]
