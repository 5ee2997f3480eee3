"""From a trained state to the folder ``starter/reranker``: calibrated, in int8 rows.

    python -m training.reranker.export --work FOLDER --out engine/carrel/starter/reranker

``--work`` is where ``training.reranker.train`` kept its state. Calibration is Platt's (J. Platt, "Probabilistic Outputs
for Support Vector Machines", 1999) on titles that training did not see: score = sigmoid(a · logit + b) is the share of
pairs that answer, among a question's window and its hard negatives. a and b go into the classifier.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertConfig

from training.int8_rows import dequantize_rows, quantize_rows, write_int8_rows
from training.reranker.data import Example, Window, load_examples
from training.reranker.model import SpanReranker, score_pairs
from training.reranker.train import MAX_LENGTH, TRAIN_LENGTH, judge

QUESTIONS = 300  # held out, for calibration; as many others for the figures


def load_state(work: Path) -> tuple[SpanReranker, Tokenizer]:
    config = BertConfig.from_pretrained(work / "model")
    model = SpanReranker(config)
    state = load_file(work / "state.safetensors")
    model.load_state_dict({name.removeprefix("model."): v for name, v in state.items() if name.startswith("model.")})
    tokenizer = Tokenizer.from_file(str(work / "model" / "tokenizer.json"))
    tokenizer.enable_truncation(TRAIN_LENGTH, strategy="only_second")
    return model.eval(), tokenizer  # type: ignore[no-untyped-call]


@torch.no_grad()
def judged_pairs(
    model: SpanReranker, tokenizer: Tokenizer, windows: Sequence[Window], examples: Sequence[Example]
) -> tuple[Tensor, Tensor]:
    """[pairs] logits and [pairs] 1.0 where the window answers."""
    logits, labels = [], []
    for example in examples:
        own = [] if example.positive is None else [example.positive]
        asked = [*own, *example.negatives]
        scored = score_pairs(model, tokenizer, [(example.question, windows[i].text) for i in asked])
        logits += [each.score for each in scored]
        labels += [1.0] * len(own) + [0.0] * len(example.negatives)
    return torch.stack(logits), torch.tensor(labels)


def platt(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """a and b of sigmoid(a · logit + b), by maximum likelihood.

    >>> a, b = platt(torch.tensor([2.0, 2.0, -2.0, -2.0, -2.0, 2.0]), torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 0.0]))
    >>> round(a, 2), round(b, 2)
    (0.35, 0.0)
    """
    line = torch.tensor([1.0, 0.0], requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(line[0] * logits + line[1], labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return float(line.detach()[0]), float(line.detach()[1])


def as_stored(model: SpanReranker) -> None:
    """The weights as they are after a round trip through int8."""
    for value in model.state_dict().values():
        if value.dim() == 2:
            value.copy_(dequantize_rows(*quantize_rows(value)))


def write_folder(model: SpanReranker, work: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: value for name, value in model.state_dict().items() if "position_ids" not in name}
    write_int8_rows(weights, out / "model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(work / "model" / name, out / name)
    config = json.loads((work / "model" / "config.json").read_text(encoding="utf-8"))
    config |= {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "answers"}, "dtype": "float32"}
    config |= {"label2id": {"answers": 0}, "max_position_embeddings": MAX_LENGTH}
    kept = {name: value for name, value in sorted(config.items()) if not name.startswith(("_", "transformers"))}
    (out / "config.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model, tokenizer = load_state(args.work)
    windows, examples = load_examples(args.work / "examples.json")
    held_out = random.Random(args.seed).sample([e for e in examples if e.held_out], 2 * QUESTIONS)
    a, b = platt(*judged_pairs(model, tokenizer, windows, held_out[:QUESTIONS]))
    with torch.no_grad():
        model.classifier.bias.mul_(a).add_(b)
        model.classifier.weight.mul_(a)
    answerable = [example for example in held_out[QUESTIONS:] if example.positive is not None]
    before = judge(model, tokenizer, windows, answerable)
    as_stored(model)
    after = judge(model, tokenizer, windows, answerable)
    write_folder(model, args.work, args.out)
    print(json.dumps({"a": round(a, 4), "b": round(b, 4), "float32": before, "int8": after}, indent=2))


if __name__ == "__main__":
    main()
