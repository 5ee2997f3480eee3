"""What the reader is taught: questions with numbered passages, in the pipeline's own words, and how to answer them.

Two kinds: questions of the data sets, and sentences of any text with a gap to be filled from the passage (cloze). Knows
text only: no tokens, no model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from carrel_rag.prompts import abstention, make_messages
from carrel_rag.schema import RetrievedChunk
from carrel_rag.sentences import split_sentences

from training.reranker.data import Example, Window

GAP = "___"
_NAMES = re.compile(
    r"(?:\b[A-Z][\w'-]+(?: (?:of |the |de )?[A-Z][\w'-]+){0,3})|\b\d[\d,.]*\d\b|\b[a-z]{6,}(?: [a-z]{4,})?\b"
)
_CHINESE = re.compile(r"[\u4e00-\u9fff]{2,5}|\d[\d,.]*\d")


@dataclass(frozen=True)
class Task:
    """A question, its passages (title, text) and the answer; ``gold`` counts from 0, None: they do not answer."""

    lang: str
    question: str
    passages: tuple[tuple[str, str], ...]
    gold: int | None
    answer: str = ""


@dataclass(frozen=True)
class Chat:
    """A task as messages, the reply, and where in the user's message the answer's characters stand."""

    messages: list[dict[str, str]]
    reply: str
    places: tuple[int, ...]  # starts of the answer in the text of the last message; () if the reply quotes nothing
    answer: str


def as_chat(task: Task) -> Chat:
    """The pipeline's prompt and the reply that is right: the answer with its passage's number, or the abstention."""
    chunks = [_chunk(number, title, text) for number, (title, text) in enumerate(task.passages)]
    messages = [dict(message) for message in make_messages(task.question, chunks)]
    if task.gold is None:
        return Chat(messages, abstention(task.question), (), "")
    user = messages[-1]["content"]
    start = user.index(f'<passage id="{task.gold + 1}"')
    end = user.index("</passage>", start)
    begin = user.index("\n", start)
    answer = (
        f" {task.answer}" if f" {task.answer}" in user[begin:end] else task.answer
    )  # the very tokens of the passage
    places = tuple(begin + match.start() for match in re.finditer(re.escape(answer), user[begin:end]))
    return Chat(messages, f"{answer} [{task.gold + 1}]", places, answer)


def _chunk(number: int, title: str, text: str) -> RetrievedChunk:
    return RetrievedChunk(
        id=number, document_id="d", source=title, title=title, page=None, section=(), text=text, start=0, end=len(text),
        media_type="text/plain", ordinal=number, score=1.0,
    )  # fmt: skip


class Tasks:
    """An endless, seeded supply of tasks."""

    def __init__(self, windows: Sequence[Window], examples: Sequence[Example], texts: Sequence[Window]) -> None:
        self.windows, self.examples, self.texts = windows, examples, [*windows, *texts]

    def question(self, example: Example, num_passages: int, rng: random.Random, *, absent: bool = False) -> Task | None:
        """A question of the sets among ``num_passages`` passages; ``absent``: the one that answers is left out."""
        gold = None if absent else example.positive
        wrong = rng.sample(list(example.negatives), min(num_passages, len(example.negatives)))
        if example.positive is None:
            wrong = [example.negatives[0], *rng.sample(range(len(self.windows)), num_passages - 1)]
        chosen = wrong[: num_passages - (gold is not None)] + ([gold] if gold is not None else [])
        rng.shuffle(chosen)
        passages = tuple((self.windows[i].title, self.windows[i].text) for i in chosen)
        if gold is None:
            return Task(example.lang, example.question, passages, None) if passages else None
        answer = _as_written(example.answers, self.windows[gold].text)
        return Task(example.lang, example.question, passages, chosen.index(gold), answer) if answer else None

    def cloze(self, num_passages: int, rng: random.Random) -> Task | None:
        """A sentence with a gap; what was there stands in one of the passages."""
        number = rng.randrange(len(self.texts))
        window = self.texts[number]
        text = window.text[:600]
        sentences = [(a, b) for a, b in split_sentences(text) if 20 <= b - a <= 260]
        if not sentences:
            return None
        first, last = rng.choice(sentences)
        sentence = text[first:last]
        spans = list((_CHINESE if window.lang == "zh" else _NAMES).finditer(sentence))
        if not spans:
            return None
        gap = rng.choice(spans)
        question = (
            _blurred(sentence[: gap.start()], rng, window.lang)
            + GAP
            + _blurred(sentence[gap.end() :], rng, window.lang)
        )
        others = [rng.choice(self.texts) for _ in range(num_passages - 1)]
        passages = [(other.title, other.text[:600]) for other in others if other.lang == window.lang]
        gold = rng.randrange(len(passages) + 1)
        passages.insert(gold, (window.title, text))
        return Task(window.lang, question, tuple(passages), gold, gap.group())


def _as_written(answers: Sequence[str], text: str) -> str:
    """The shortest answer that stands in ``text``, as it is written there."""
    low = text.lower()
    for answer in sorted(answers, key=len):
        at = low.find(answer.lower()) if answer else -1
        if at >= 0 and len(low) == len(text):
            return text[at : at + len(answer)]
    return ""


def _blurred(text: str, rng: random.Random, lang: str) -> str:
    """Some words or characters left out, and not much more than what is near the gap: a question is no copy."""
    if lang == "zh":
        return "".join(character for character in text[-40:] if rng.random() > 0.15)
    return "".join(word for word in _words(text) if rng.random() > 0.15)


def _words(text: str) -> Iterator[str]:
    yield from re.findall(r"\s*\S+\s*$|\s*\S+", text)
