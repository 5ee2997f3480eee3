"""What is trained: MiniLM as a cross-encoder with two heads, one for relevance and one for the span that answers.

Knows pairs of texts as tensors; knows no files and no losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

PART = 24  # pairs computed together: like lengths, so that little of a part is padding
ROUND = 8  # lengths are multiples of it: fewer shapes, fewer prepared kernels kept in memory


class SpanReranker(BertForSequenceClassification):  # type: ignore[no-untyped-call]
    """``classifier`` judges the pair by [CLS]; ``qa_outputs`` says of each token if the answer starts or ends there."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()  # type: ignore[no-untyped-call]

    def both(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """[pairs] scores before the sigmoid and [pairs, length, 2] start and end, fp32."""
        out = self.bert(input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=attention_mask)
        return self.classifier(out.pooler_output)[:, 0].float(), self.qa_outputs(out.last_hidden_state).float()


@dataclass(frozen=True)
class Scored:
    """What the model says of one pair."""

    score: Tensor  # []
    spans: Tensor  # [length, 2]
    encoding: Encoding


def score_pairs(model: SpanReranker, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> list[Scored]:
    """In the order of ``pairs``."""
    encodings = tokenizer.encode_batch(list(pairs))
    order = sorted(range(len(pairs)), key=lambda i: len(encodings[i].ids))
    found: dict[int, Scored] = {}
    for start in range(0, len(order), PART):
        part = order[start : start + PART]
        with torch.autocast("cpu", torch.bfloat16):
            scores, spans = model.both(**_padded([encodings[i] for i in part]))
        for row, i in enumerate(part):
            found[i] = Scored(scores[row], spans[row, : len(encodings[i].ids)], encodings[i])
    return [found[i] for i in range(len(pairs))]


def _padded(encodings: Sequence[Encoding]) -> dict[str, Tensor]:
    """[pairs, length] each."""
    length = -(-max(len(e.ids) for e in encodings) // ROUND) * ROUND
    fields = {"input_ids": "ids", "token_type_ids": "type_ids", "attention_mask": "attention_mask"}
    return {
        name: torch.tensor([[*getattr(e, field), *[0] * (length - len(e.ids))] for e in encodings])
        for name, field in fields.items()
    }


def passage_tokens(encoding: Encoding) -> range:
    """The tokens of the second text, without [SEP]."""
    first = encoding.type_ids.index(1) if 1 in encoding.type_ids else len(encoding.ids)
    return range(first, max(first, sum(encoding.attention_mask) - 1))


def span_loss(scored: Scored, text: str, begin: int, answers: Sequence[str]) -> Tensor | None:
    """Minus the log-probability of the places where an answer starts, and ends; None where no token does.

    An answer may stand in several places, and which one is meant is not known: all of them count together. Before
    ``begin`` stands the title, which answers nothing.
    """
    tokens = passage_tokens(scored.encoding)
    offsets = [scored.encoding.offsets[i] for i in tokens]
    starts, ends = set[int](), set[int]()
    for first, last in occurrences(text.lower(), begin, answers):
        inside = [i for i, (a, b) in enumerate(offsets) if a < last and b > first]
        if inside and offsets[inside[-1]][1] >= last:
            starts.add(inside[0])
            ends.add(inside[-1])
    if not starts:
        return None
    logits = scored.spans[tokens.start : tokens.stop]  # [tokens of the passage, 2]
    loss = logits.logsumexp(0).sum()
    for side, places in enumerate((starts, ends)):
        loss = loss - logits[sorted(places), side].logsumexp(0)
    return loss / 2


def occurrences(text: str, begin: int, answers: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(start, end) of every place of every answer from ``begin`` on; both in lower case."""
    for answer in answers:
        wanted = answer.lower()
        at = text.find(wanted, begin) if wanted else -1
        while at >= 0:
            yield at, at + len(wanted)
            at = text.find(wanted, at + 1)


def best_span(spans: Tensor, encoding: Encoding, longest: int = 40) -> tuple[int, int] | None:
    """(start, end) in characters of the passage: the most probable span of at most ``longest`` tokens."""
    tokens = passage_tokens(encoding)
    if not tokens:
        return None
    start, end = spans[tokens.start : tokens.stop].unbind(1)
    sums = start.unsqueeze(1) + end.unsqueeze(0)  # [start, end]
    allowed = torch.ones_like(sums, dtype=torch.bool).triu().tril(longest - 1)
    first, last = divmod(int(sums.masked_fill(~allowed, -torch.inf).argmax()), len(tokens))
    return encoding.offsets[tokens[first]][0], encoding.offsets[tokens[last]][1]
