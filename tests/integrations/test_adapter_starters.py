"""Both frameworks over the bundled starter models: real vectors, so that what is found can be judged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from carrel import LLM
from langchain_carrel import CarrelEmbeddings, CarrelRerank, ChatCarrel
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.embeddings.carrel import CarrelEmbedding
from llama_index.llms.carrel import Carrel
from llama_index.postprocessor.carrel import CarrelRerank as NodeRerank

TEXTS = [
    "A reader may borrow five books for four weeks.",
    "The reading room is open from nine to six on weekdays.",
    "Paged attention keeps the KV cache in blocks of sixteen tokens.",
    "The river runs below the house on the hill.",
    "Bread is baked from flour, water, salt and yeast.",
    "The library's garden is closed in winter.",
]
QUESTIONS = {
    "How many books can I take home?": TEXTS[0],
    "When can I sit in the reading room?": TEXTS[1],
    "How is the key-value cache stored?": TEXTS[2],
}


@pytest.fixture(scope="module")
def starters() -> Iterator[LLM]:
    with LLM() as llm:
        yield llm


def test_langchain_finds_and_answers(starters: LLM) -> None:
    store = InMemoryVectorStore(CarrelEmbeddings(llm=starters))
    store.add_documents([Document(text) for text in TEXTS])
    rerank, chat = CarrelRerank(llm=starters, top_n=1), ChatCarrel(llm=starters, max_tokens=8, temperature=0)
    for question, text in QUESTIONS.items():
        found = store.similarity_search(question, k=3)
        (best,) = rerank.compress_documents(found, question)
        assert best.page_content == text
        assert 0.0 < best.metadata["relevance_score"] <= 1.0
    context: RunnableLambda[str, str] = RunnableLambda(
        lambda question: store.similarity_search(question, k=1)[0].page_content
    )
    prompt = ChatPromptTemplate.from_template("根据下文回答。\n\n{context}\n\n{question}")
    chain = {"context": context, "question": RunnablePassthrough()} | prompt | chat | StrOutputParser()
    answers = chain.batch(list(QUESTIONS))
    assert answers == [chain.invoke(question) for question in QUESTIONS]
    assert all(answers)


async def test_llama_index_finds_and_answers(starters: LLM) -> None:
    index = VectorStoreIndex([TextNode(text=text) for text in TEXTS], embed_model=CarrelEmbedding(llm=starters))
    engine = index.as_query_engine(
        llm=Carrel(llm=starters, max_tokens=8, temperature=0),
        node_postprocessors=[NodeRerank(llm=starters, top_n=1)],
        similarity_top_k=3,
    )
    for question, text in QUESTIONS.items():
        response = await engine.aquery(question)
        assert [node.node.get_content() for node in response.source_nodes] == [text]
        assert str(response)
