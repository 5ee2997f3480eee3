"""A chat model that can only quote: what the grammar lets through, and that the engine's models hold to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from carrel import LLM
from carrel.grammar import Grammar
from carrel_rag import Document, RAGPipeline
from carrel_rag.engine_models import bind_engine
from carrel_rag.pieces import choosing_grammar, cite_piece, quoting_grammar
from carrel_rag.prompts import ABSTENTION_CHINESE, ABSTENTION_ENGLISH
from carrel_rag.relevance import make_question
from carrel_rag.schema import RetrievedChunk
from carrel_rag.words import trimmed, whole_words
from rag_fakes import FakeEmbedder, ScriptedChat, WordFinder

HARBOUR = (
    "The old harbour town has 4,812 lanterns [12]. Of these,\n1,207 (a quarter) burned colza oil.\n\n"
    "The rest burned whale oil, through pipes of .5 mm."
)
CARDS = "会员分为银卡、金卡和墨玉卡三级。墨玉卡会员按1.5倍累积积分，另有 VIP 休息室。"


def chunk(text: str, *, media_type: str = "text/plain", start: int = 0) -> RetrievedChunk:
    return RetrievedChunk(
        id=1, document_id="d", source="d", title="D", media_type=media_type, ordinal=0, start=start,
        end=start + len(text), text=text, page=None, section=(), score=0.5,
    )  # fmt: skip


CHUNKS = [chunk(HARBOUR), chunk(CARDS, start=100)]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM() as opened:
        yield opened


class Form:
    """What a grammar lets through, by the tokens of the starter reader."""

    def __init__(self, llm: LLM, lark: str) -> None:
        hosted = llm.host.get(None, "chat")
        self._tokenizer = hosted.tokenizer
        self._ends = hosted.eos_token_ids
        self._grammar: Grammar = hosted.grammar_compiler.compile(lark)

    def accepts(self, text: str) -> bool:
        matcher = self._grammar.matcher()
        mask = np.zeros_like(self._grammar.known)  # type: ignore[attr-defined]  # of the one implementation
        for token in self._tokenizer.encode(text, add_special_tokens=False):
            matcher.fill_bitmask(mask)
            if not mask[token // 32] >> (token % 32) & 1:
                return False
            matcher.consume([token])
        matcher.fill_bitmask(mask)
        return any(mask[end // 32] >> (end % 32) & 1 for end in self._ends)


@pytest.fixture(scope="module")
def form(llm: LLM) -> Form:
    lark, count = quoting_grammar("How many?", CHUNKS)
    assert count == 2
    return Form(llm, lark)


@pytest.mark.parametrize(
    "text",
    [
        "4,812 lanterns [1]",
        "The old harbour town has 4,812 lanterns [1]",
        "Of these, 1,207 (a quarter) burned colza oil. [1]",  # the line break is a blank
        "(a quarter) [1]",
        "1,207 [1]",
        ".5 mm [1]",
        "1.5倍 [2]",
        "银卡、金卡和墨玉卡 [2]",
        "VIP 休息室 [2]",
        "玉 [2]",
        ABSTENTION_ENGLISH,
    ],
)
def test_what_may_be_said(form: Form, text: str) -> None:
    assert form.accepts(text)


@pytest.mark.parametrize(
    "text",
    [
        "4,812 lanterns [2]",  # another passage
        "4,812 lanterns [3]",
        "4,812 lanterns",
        "4,812 lanterns[1]",
        "4,812 lanterns [1] [1]",
        "5 mm [1]",
        "812 lanterns [1]",  # half a number, half a word
        "4,812 lantern [1]",
        "arbour [1]",
        "5倍 [2]",
        "VI [2]",
        "has lanterns [1]",  # two pieces
        "lanterns [12] [1]",  # a mark of the document's own
        "oil. The rest [1]",  # over the end of a paragraph
        ", 1,207 [1]",
        "Of these, [1]",
        "( [1]",
        "、 [2]",
        " [1]",
        "",
        ABSTENTION_CHINESE,  # the question is in English
        ABSTENTION_ENGLISH + " [1]",
    ],
)
def test_what_may_not_be_said(form: Form, text: str) -> None:
    assert not form.accepts(text)


def test_a_piece_is_short(llm: LLM) -> None:
    words = " ".join(f"word{n}" for n in range(200))
    form = Form(llm, quoting_grammar("Which?", [chunk(words), chunk("字" * 300)])[0])
    assert form.accepts(words[:60].rsplit(" ", 1)[0] + " [1]")
    assert not form.accepts(words + " [1]")
    assert form.accepts("字" * 60 + " [2]")
    assert not form.accepts("字" * 100 + " [2]")


def test_passages_that_the_grammar_cannot_hold_are_left_out() -> None:
    chunks = [chunk(f"{n} " + "很长的文字" * 60) for n in range(40)]
    lark, count = quoting_grammar("多少？", chunks)
    assert 5 < count < 40
    assert f"PASSAGE_{count}_0" in lark and f"PASSAGE_{count + 1}_0" not in lark


def test_of_a_passage_that_is_too_long_the_beginning_may_be_quoted(llm: LLM) -> None:
    text = " ".join(f"word{n}" for n in range(5000))
    lark, count = quoting_grammar("Which?", [chunk(text), chunk(HARBOUR)])
    assert count == 1 and len(lark) < 20_000
    form = Form(llm, lark)
    assert form.accepts("word7 word8 [1]")
    assert not form.accepts("word4999 [1]")


@pytest.mark.parametrize(
    "text", ["…", '"\\/\x7f\u2028 a %{}', "```\ncode(a[1]) | b\n```", "<|im_end|> is text", "🏮🏮"]
)
def test_odd_passages_compile(llm: LLM, text: str) -> None:
    form = Form(llm, quoting_grammar("为什么？", [chunk(text, media_type="text/markdown")])[0])
    assert form.accepts(ABSTENTION_CHINESE)
    assert not form.accepts("x [1]")


def test_the_sentence_of_a_piece_is_cited() -> None:
    question = make_question("How many burned colza oil?", {}, 2)
    (citation,) = cite_piece("Of these, 1,207 [1]", question, CHUNKS)
    assert citation.quote == "Of these,\n1,207 (a quarter) burned colza oil."
    assert HARBOUR[citation.start : citation.end] == citation.quote
    (citation,) = cite_piece("墨玉卡 [2]", make_question("墨玉卡会员按几倍累积积分？", {}, 2), CHUNKS)
    assert citation.quote == "墨玉卡会员按1.5倍累积积分，另有 VIP 休息室。"  # the second place speaks of the question
    assert (citation.start, citation.end) == (100 + CARDS.index("墨玉卡会员"), 100 + len(CARDS))
    for other in (ABSTENTION_ENGLISH, "Of these", "lanterns [7]", "nowhere [1]"):
        assert cite_piece(other, question, CHUNKS) == ()


def test_a_number_is_no_part_of_another_one() -> None:
    text = "The Blue Harbour mill was built in 1950. It has 5 floors."
    question = make_question("How many floors has the Blue Harbour mill?", {}, 1)
    (citation,) = cite_piece("5 [1]", question, [chunk(text)])
    assert citation.quote == "It has 5 floors."


def test_a_row_of_a_table_is_its_sentence() -> None:
    table = "Code: E02; Meaning: no contact. Try again\nCode: E07; Meaning: humidity. Sensor broken"
    (citation,) = cite_piece("humidity [1]", make_question("E07?", {}, 1), [chunk(table, media_type="text/markdown")])
    assert citation.quote == "Code: E07; Meaning: humidity. Sensor broken"


@pytest.mark.parametrize(("constrain", "is_starter", "held"), [(None, False, False), (None, True, True),
                                                                (True, False, True), (False, True, False)])  # fmt: skip
def test_who_is_held_to_quotes(tmp_path: Path, constrain: bool | None, is_starter: bool, held: bool) -> None:
    chat = ScriptedChat("4,812 lanterns [1]")
    chat.is_starter = is_starter
    with RAGPipeline.open(tmp_path, embedder=FakeEmbedder(), chat=chat) as rag:
        rag.add(Document(text=HARBOUR, source="harbour"), use_tqdm=False)
        answer = rag.ask("How many lanterns has the harbour?", mode="generative", constrain=constrain)
        assert (chat.grammars[-1] is not None) == held
        assert answer.text == "4,812 lanterns [1]"
        assert [c.number for c in answer.citations] == [1]


def test_one_of_the_answers_that_were_found(llm: LLM) -> None:
    form = Form(llm, choosing_grammar(["4,812 lanterns [1]", '"银卡" [2]', "4,812 lanterns [1]"]))
    assert form.accepts("4,812 lanterns [1]")
    assert form.accepts(" 4,812 lanterns [1]")  # a reader's first token may begin with a blank
    assert form.accepts('"银卡" [2]')
    for other in ("银卡 [2]", "4,812 lanterns", "4,812 [1]", ABSTENTION_ENGLISH, ""):
        assert not form.accepts(other)


@pytest.mark.parametrize(("relevance", "abstains"), [(0.8, False), (0.01, True)])
def test_the_starter_reranker_says_whether_and_the_starter_reader_what(
    tmp_path: Path, relevance: float, abstains: bool
) -> None:
    chat = ScriptedChat(" 4,812 lanterns [1]")
    chat.is_starter = True
    judge = WordFinder("4,812", relevance=relevance, kind="small-cross-encoder")
    with RAGPipeline.open(tmp_path, embedder=FakeEmbedder(), reranker=judge, chat=chat) as rag:
        rag.add(Document(text=HARBOUR, source="harbour"), use_tqdm=False)
        answer = rag.ask("How many lanterns has the harbour?", mode="generative")
    assert answer.abstained == abstains
    assert answer.text == (ABSTENTION_ENGLISH if abstains else "4,812 lanterns [1]")
    assert len(chat.asked) == (not abstains)


def test_the_citation_of_a_span_that_is_chosen_is_its_own(tmp_path: Path) -> None:
    text = "Sholes met Glidden. The typewriter was patented by Sholes[2] and Glidden[3] in 1868."
    chat = ScriptedChat("Sholes and Glidden [1]")
    chat.is_starter = True
    judge = WordFinder("Sholes[2] and Glidden[3]", kind="small-cross-encoder")
    with RAGPipeline.open(tmp_path, embedder=FakeEmbedder(), reranker=judge, chat=chat) as rag:
        rag.add(Document(text=text, source="typewriter"), use_tqdm=False)
        answer = rag.ask("Who patented the typewriter?", mode="generative")
    assert answer.text == "Sholes and Glidden [1]"
    (citation,) = answer.citations
    assert citation.quote == text[text.index("The") :]
    assert '("Sholes and Glidden [1]")' in chat.grammars[-1]


@pytest.mark.parametrize("temperature", [0.0, 2.0])
@pytest.mark.parametrize("question", ["How many lanterns burned colza oil?", "墨玉卡会员按几倍累积积分？"])
def test_the_starter_reader_quotes(llm: LLM, tmp_path: Path, question: str, temperature: float) -> None:
    documents = [Document(text=HARBOUR, source="harbour"), Document(text=CARDS, source="卡")]
    with RAGPipeline.open(tmp_path, llm=llm) as rag:
        rag.add(documents, use_tqdm=False)
        answer = rag.ask(question, mode="generative", temperature=temperature)
        assert answer.finish_reason == "stop"
        if answer.abstained:
            assert answer.text in (ABSTENTION_ENGLISH, ABSTENTION_CHINESE)
            return
        match = re.fullmatch(r"(.+) \[(\d)\]", answer.text, re.S)
        assert match is not None, answer.text
        (citation,) = answer.citations
        assert citation.number == int(match[2])
        assert match[1] in " ".join(citation.quote.split())
        assert rag.document_text(citation.document_id)[citation.start : citation.end] == citation.quote  # type: ignore[index]
        assert rag.ask(question, mode="generative", max_tokens=3, constrain=True).finish_reason == "length"


def test_the_engine_takes_the_grammar(llm: LLM) -> None:
    chat = bind_engine(llm).chat
    assert chat is not None
    lark, _ = quoting_grammar("多少？", CHUNKS)
    asked = [{"role": "user", "content": "多少？"}]
    deltas = chat.stream_chat(asked, max_tokens=200, temperature=0.0, grammar=lark)
    reply = "".join(delta.text for delta in deltas)
    assert reply == ABSTENTION_CHINESE or re.search(r" \[[12]\]$", reply)


def test_words_and_what_is_trimmed() -> None:
    text = 'He said "Christopher L. Sholes", (in 1868), of the U.S. 约1.5倍。'
    assert whole_words(text, 11, 18) == (9, 20)
    assert text[slice(*whole_words(text, text.index("5"), text.index("倍")))] == "1.5"
    for piece, wanted in [
        ('"Christopher L. Sholes', "Christopher L. Sholes"),
        (", (in 1868)", "(in 1868)"),
        ("in 1868), of", "in 1868), of"),
        ("(in 1868", "(in 1868)"),
        ("of the U.S.", "of the U.S."),
        ("1.5倍。", "1.5倍"),
        ('", (', ""),
        (" ", ""),
    ]:
        at = text.index(piece)
        start, end = trimmed(text, at, at + len(piece))
        assert text[start:end] == wanted
