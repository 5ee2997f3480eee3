"""Extractive answers of a reranker that finds spans: short, cited, quoted with their sentence, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from carrel import LLM
from carrel_rag import Document, ExtractiveConfig, RAGPipeline
from carrel_rag.engine_models import bind_engine
from carrel_rag.protocols import FoundSpan, Reranker, SpanFinder
from carrel_rag.relevance import Question, make_question
from carrel_rag.schema import Answer, RetrievedChunk
from carrel_rag.score_cache import CachedSpanFinder, cached
from carrel_rag.spans import evidence_of, extract_span
from rag_fakes import FakeEmbedder, FakeReranker, WordFinder

HARBOUR = Document(
    text="The harbour has 4,812 lanterns. Of these, 1,207 burned colza oil. Nobody counted the boats.",
    source="harbour",
    title="Harbour",
)
CARDS = Document(text="会员分为银卡、金卡和墨玉卡三级。墨玉卡会员按1.5倍累积积分。", source="卡", title="会员办法")

ASKED = Question("?", {})


def ask(folder: Path, finder: Reranker, *documents: Document, config: ExtractiveConfig | None = None) -> Answer:
    with RAGPipeline.open(folder, embedder=FakeEmbedder(), reranker=finder, extractive=config) as rag:
        rag.add(documents or [HARBOUR, CARDS], use_tqdm=False)
        answer = rag.ask("How many lanterns burned colza oil?")
        for citation in answer.citations:
            text = rag.document_text(citation.document_id)
            assert text is not None
            assert text[citation.start : citation.end] == citation.quote
            assert answer.chunks[citation.number - 1].id == citation.chunk_id
        return answer


def chunk(
    text: str, *, number: int = 1, start: int = 0, media_type: str = "text/markdown", title: str = ""
) -> RetrievedChunk:
    return RetrievedChunk(
        id=number, document_id="d", source="d", title=title, media_type=media_type, ordinal=0, start=start,
        end=start + len(text), text=text, page=None, section=(), score=0.5,
    )  # fmt: skip


def extract(text: str, *words: str, media_type: str = "text/markdown", pad: int = 0) -> tuple[str, str]:
    """The answer, and the quote beside it."""
    answer, citations = extract_span(
        ASKED, [chunk(text, media_type=media_type)], WordFinder(*words, pad=pad), ExtractiveConfig()
    )
    return answer, citations[0].quote if citations else ""


def test_a_short_answer_with_its_sentence(tmp_path: Path) -> None:
    answer = ask(tmp_path, WordFinder("1,207"))
    assert answer.text == "1,207 [1]"
    assert [c.quote for c in answer.citations] == ["Of these, 1,207 burned colza oil."]
    assert answer.citations[0].score == 0.8
    assert answer.mode == "extractive"
    assert not answer.abstained


def test_a_chinese_answer(tmp_path: Path) -> None:
    answer = ask(tmp_path, WordFinder("1.5倍"))
    assert answer.text.startswith("1.5倍 [")
    assert [c.quote for c in answer.citations] == ["墨玉卡会员按1.5倍累积积分。"]


@pytest.mark.parametrize(("relevance", "abstains"), [(0.29, True), (0.31, False)])
def test_nothing_relevant_is_no_answer(tmp_path: Path, relevance: float, abstains: bool) -> None:
    config = ExtractiveConfig(min_relevance=0.3)
    answer = ask(tmp_path, WordFinder("1,207", relevance=relevance), config=config)
    assert answer.abstained == abstains
    assert (answer.citations == ()) == abstains


def test_relevance_and_span_choose_together() -> None:
    class Finder(FakeReranker):
        def find_spans(self, question: str, texts: object) -> list[FoundSpan]:
            return [FoundSpan(0, 3, -6.0, 0.8), FoundSpan(0, 3, 6.0, 0.7)]

    chunks = [chunk("one of them"), chunk("two of them", number=2)]
    finder = Finder()
    assert isinstance(finder, SpanFinder)
    assert extract_span(ASKED, chunks, finder, ExtractiveConfig(span_weight=0.2))[0] == "two [2]"
    assert extract_span(ASKED, chunks, finder, ExtractiveConfig(span_weight=0.0))[0] == "one [1]"


def test_spans_that_are_no_words_are_passed_over(tmp_path: Path) -> None:
    finder = WordFinder(". ", "colza oil")
    answer = ask(tmp_path, finder, Document(text="Dots: . . .\n\nIt burned colza oil.", source="dots"))
    assert answer.abstained  # its only window has the mark as its best span
    finder = WordFinder("…", "colza oil")
    texts = [Document(text="Of lanterns … much", source="a"), Document(text="Lanterns burned colza oil.", source="b")]
    assert ask(tmp_path / "two", finder, *texts).text.startswith("colza oil [")


def test_an_answer_is_whole_words_without_the_marks_around_it() -> None:
    text = "Of these, 1,207 (a quarter) burned “colza oil”, they say."
    assert extract(text, "these, 1,207 (a", pad=2)[0] == "these, 1,207 [1]"
    assert extract(text, "1,207", pad=2)[0] == "1,207 [1]"
    assert extract(text, "(a quarter") == ("(a quarter) [1]", text)
    assert extract(text, "“colza oil”, ")[0] == "“colza oil” [1]"
    assert extract("按1.5倍累积积分。另外", "累积积分。")[0] == "累积积分 [1]"


def test_a_span_over_two_sentences_quotes_both() -> None:
    text = "First it rained. Then it snowed. Then it stopped."
    assert extract(text, "rained. Then it snowed") == (
        "rained. Then it snowed [1]",
        "First it rained. Then it snowed.",
    )


def test_rows_and_code_are_quoted_whole() -> None:
    table = "Code: E02; Meaning: no contact. Wait.\nCode: E07; Meaning: humidity sensor out. Replace it."
    assert extract(table, "humidity sensor") == ("humidity sensor [1]", table.split("\n")[1])
    plain = "Leaves | 50 cal. per leaf | green\nNuts | 600 cal. per nut | brown"
    assert extract(plain, "600", media_type="text/csv") == ("600 [1]", plain.split("\n")[1])
    items = "- Rain: 3 mm.\n- Wind is measured at 10 metres."
    assert extract(items, "10 metres") == ("10 metres [1]", "Wind is measured at 10 metres.")
    code = "Ask it:\n\n# the latest values\ncurl http://brisa.local:8642/v1/latest\n\nIt answers."
    assert extract(code, "http://brisa.local:8642/v1/latest") == (
        "http://brisa.local:8642/v1/latest [1]",
        "# the latest values\ncurl http://brisa.local:8642/v1/latest",
    )


def test_an_answer_stays_in_its_cell_and_its_line() -> None:
    row = "Card: Jade; Rate: 1.5; Gift: 100"
    assert extract(row, "1.5; Gift") == ("1.5 [1]", row)
    assert extract(row, "Rate: 1.5") == ("1.5 [1]", row)
    assert extract("Ask the office.\n\nIt opens at nine every day.", "office.\n\nIt opens at nine") == (
        "It opens at nine [1]",
        "It opens at nine every day.",
    )


def test_a_question_is_no_answer() -> None:
    pair, other = "Is there a lift? Yes, in the Great Dome.", "Who has the keys? Ask the guard."
    for asked in ("a lift", "Is there a lift?", "there a lift? Yes, in the Great Dome"):
        assert extract(pair, asked) == ("Yes, in the Great Dome [1]", "Yes, in the Great Dome.")
    assert extract("门票多少钱？四十元。", "门票") == ("四十元 [1]", "四十元。")
    assert extract("It is open. Is there a lift?", "a lift") == ("", "")
    assert extract("Is there a lift? Who asks?", "a lift") == ("", "")
    finder = WordFinder("guard")
    answer, (citation,) = extract_span(ASKED, [chunk(f"Seen twice.\n\n{pair}\n\n{other}")], finder, ExtractiveConfig())
    assert (answer, citation.quote) == ("guard [1]", "Ask the guard.")
    assert finder.read == ["Seen twice.", pair, other]  # each beside its answer alone
    keys = make_question("Who has the keys?", {}, 1)
    (evidence,) = evidence_of(keys, [chunk(other)], WordFinder("guard"), ExtractiveConfig())
    assert evidence.coverage == 1.0, "the words of the question before it are its words"


def test_rows_are_read_one_by_one() -> None:
    rows = [f"Ticket: {kind}; Day: {price}; Night: {price * 2}" for kind, price in (("Adult", 14), ("Student", 9))]
    finder = WordFinder("18")
    extract_span(ASKED, [chunk("All prices in pounds.\n\n" + "\n".join(rows))], finder, ExtractiveConfig())
    assert finder.read == ["All prices in pounds.", *rows]


def test_beside_a_small_judge_the_questions_words_help_to_choose() -> None:
    question = Question("学生晚上多少钱？", {"学生": 1.0, "晚上": 1.0})
    chunks = [chunk("成人；晚上：28"), chunk("学生；晚上：18", number=2)]
    finder = WordFinder("28", "18")  # the first is a little more relevant, and has the better span
    assert extract_span(question, chunks, finder, ExtractiveConfig())[0] == "28 [1]"
    finder = WordFinder("28", "18", kind="small-cross-encoder")
    assert extract_span(question, chunks, finder, ExtractiveConfig())[0] == "18 [2]"


def test_the_title_is_read_and_answers_nothing() -> None:
    chunks = [chunk("It opens at nine.", title="Opening at nine")]
    finder = WordFinder("at nine")
    assert extract_span(ASKED, chunks, finder, ExtractiveConfig())[0] == "at nine [1]"
    assert finder.read == ["Opening at nine\nIt opens at nine.", "It opens at nine."]
    finder = WordFinder("at nine", relevance=0.05)
    assert extract_span(ASKED, chunks, finder, ExtractiveConfig()) == ("", ())
    assert len(finder.read) == 1, "what is not relevant is not read again"
    finder = WordFinder("opens at nine")
    answer, (citation,) = extract_span(ASKED, chunks, finder, ExtractiveConfig())
    assert (answer, citation.quote) == ("opens at nine [1]", "It opens at nine.")


def test_wrapped_lines_become_one() -> None:
    text = "The garden was founded by the botanist and traveller Shen\nRuolan, who had seen many gardens in her life."
    answer, quote = extract(text, "Shen\nRuolan", media_type="text/plain")
    assert answer == "Shen Ruolan [1]"
    assert quote == text


def test_a_long_passage_is_read_in_windows_of_whole_sentences() -> None:
    sentences = [f"Sentence {n} says this and that about the lanterns of our town." for n in range(40)]
    text = " ".join(sentences)
    finder = WordFinder("Sentence 33")
    answer, (citation,) = extract_span(ASKED, [chunk(text, start=7)], finder, ExtractiveConfig(window_words=60))
    assert answer == "Sentence 33 [1]"
    assert citation.quote == sentences[33]
    assert (citation.start, citation.end) == (7 + text.index(sentences[33]), 7 + text.index(sentences[34]) - 1)
    assert all(window in text and len(window.split()) <= 60 for window in finder.read)
    assert all(window.startswith("Sentence") and window.endswith("town.") for window in finder.read)
    assert all(any(sentence in window for window in finder.read) for sentence in sentences)
    assert len(finder.read) <= 12
    assert max(map(len, finder.read)) < 1.5 * min(map(len, finder.read))


def test_sentences_longer_than_a_window_are_read_in_parts() -> None:
    text = "那" * 500 + "灯笼" + "那" * 400
    finder = WordFinder("灯笼")
    answer, (citation,) = extract_span(ASKED, [chunk(text)], finder, ExtractiveConfig())
    assert (answer, citation.quote) == ("灯笼 [1]", text)
    assert max(map(len, finder.read)) <= 220
    assert "".join(finder.read) == text


def test_the_same_place_in_two_passages_is_one_answer() -> None:
    text = "Nobody counted the boats. Of these, 1,207 burned colza oil. The rest burned whale oil."
    cut = text.index("Of these")
    chunks = [chunk(text[: cut + 38], number=1), chunk(text[cut:], number=2, start=cut)]
    answer, citations = extract_span(ASKED, chunks, WordFinder("1,207"), ExtractiveConfig())
    assert answer == "1,207 [1]"
    assert len(citations) == 1


def test_only_so_many_windows_are_read() -> None:
    finder = WordFinder("x")
    chunks = [chunk("word " * 100 + ".", number=n) for n in range(1, 31)]
    assert extract_span(ASKED, chunks, finder, ExtractiveConfig(max_windows=5)) == ("", ())
    assert len(finder.read) == 5
    assert extract_span(ASKED, [chunk("… — …")], finder, ExtractiveConfig()) == ("", ())
    assert extract_span(ASKED, [], finder, ExtractiveConfig()) == ("", ())


def test_of_many_windows_those_are_read_that_speak_of_the_question() -> None:
    rows = [f"Plant: P{n}; Light: L{n}; Water: W{n}" for n in range(40)]
    chunks = [chunk("\n".join(rows)), chunk("The office opens at nine.", number=2)]
    for text, found, answer in (
        ("What light does P30 need?", "L30", "L30 [1]"),
        ("When does the office open?", "at nine", "at nine [2]"),
    ):
        finder = WordFinder(found)
        question = make_question(text, {}, 2)
        assert extract_span(question, chunks, finder, ExtractiveConfig())[0] == answer
        assert len(finder.read) == ExtractiveConfig().max_windows


@pytest.mark.parametrize(
    ("text", "words", "answer"),
    [
        ("Patented by Sholes[2] and Glidden [3] in 1868.", "Sholes[2] and Glidden", "Sholes and Glidden [1]"),
        (
            "本办法自公布之日起施行，政府采购管理工作中的有关事项，由市财\n政局负责解释。",
            "由市财\n政局",
            "由市财政局 [1]",
        ),
        (
            "Of all the lanterns in the old harbour, 1,207 (a quarter) burned\ncolza  oil.",
            "burned\ncolza  oil",
            "burned colza oil [1]",
        ),
        ("The lead is .5 mm thick.", ".5 mm", ".5 mm [1]"),
        ("The lead is .5 mm thick.", "5 mm", ".5 mm [1]"),
        ("It weighs 1.5kg.", "5kg", "1.5kg [1]"),
        ("See [12].", "[12]", ""),
    ],
)
def test_how_an_answer_is_written(text: str, words: str, answer: str) -> None:
    assert extract(text, words, media_type="text/plain")[0] == answer


def test_passages_that_were_judged_are_not_read_again(tmp_path: Path) -> None:
    finder = WordFinder("1,207")
    ask(tmp_path, finder)
    assert len(finder.read) == 2  # a passage that is one window is judged and searched at once
    assert isinstance(cached(finder), CachedSpanFinder)
    assert not isinstance(cached(FakeReranker()), SpanFinder)


def test_the_sentence_form_stays(tmp_path: Path) -> None:
    sentence = "Of these, 1,207 burned colza oil. [1]"
    assert ask(tmp_path / "1", WordFinder("1,207", relevance=0.9), config=ExtractiveConfig(answer="sentence")).text == (
        sentence
    )
    assert ask(tmp_path / "2", FakeReranker()).text == sentence


@pytest.mark.parametrize("wrong", [{"answer": "word"}, {"window_words": 0}, {"max_windows": 0}])
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ExtractiveConfig(**wrong)  # type: ignore[arg-type]


def test_a_reranker_of_the_engine_that_finds_spans(tiny_models: Callable[[str], Path], tmp_path: Path) -> None:
    """Its weights are random, so what it finds is not told; that it is a cited piece of a sentence is."""
    models = {"embedding_model": str(tiny_models("bert-mean")), "reranker_model": str(tiny_models("bert-spans"))}
    config = ExtractiveConfig(min_relevance=0.0)
    with LLM(**models) as llm, RAGPipeline.open(tmp_path, llm=llm, extractive=config) as rag:
        finder = bind_engine(llm).reranker
        assert isinstance(finder, SpanFinder)
        (found,) = finder.find_spans("Which?", [HARBOUR.text])
        assert finder.score("Which?", [HARBOUR.text]) == [pytest.approx(found.relevance)]
        assert 0 <= found.start <= found.end <= len(HARBOUR.text)
        assert finder.find_spans("Which?", []) == []
        rag.add([HARBOUR, CARDS], use_tqdm=False)
        for question in ("How many lanterns?", "墨玉卡会员按几倍累积积分？", "long " * 3000):
            answer = rag.ask(question)
            (citation,) = answer.citations
            assert answer.text.removesuffix(f" [{citation.number}]") in citation.quote
            text = rag.document_text(citation.document_id)
            assert text is not None
            assert text[citation.start : citation.end] == citation.quote
    plain = {**models, "reranker_model": str(tiny_models("bert-reranker"))}
    with LLM(**plain) as llm:
        assert not isinstance(bind_engine(llm).reranker, SpanFinder)
