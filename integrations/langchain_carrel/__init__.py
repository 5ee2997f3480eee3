"""carrel in LangChain: a chat model, embeddings and a reranker, in this process or over HTTP.

>>> from langchain_carrel import ChatCarrel
>>> ChatCarrel(base_url="http://127.0.0.1:8000", temperature=0).base_url
'http://127.0.0.1:8000'
"""

from langchain_carrel.chat_models import ChatCarrel
from langchain_carrel.embeddings import CarrelEmbeddings
from langchain_carrel.rerank import CarrelRerank

__all__ = ["CarrelEmbeddings", "CarrelRerank", "ChatCarrel"]
