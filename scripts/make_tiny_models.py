"""Make small random models of every family that carrel serves, with real tokenizers, for tests and for trying out.

    python scripts/make_tiny_models.py --out /tmp/tiny            # all of them
    python scripts/make_tiny_models.py --out /tmp/tiny qwen2 bert-mean

They talk nonsense: the weights are random (seeded), so only the machinery can be judged. The tokenizers are trained on
the few sentences below. Everything is in Hugging Face's layout, made by transformers itself.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

CORPUS = (
    "The house stands on the hill, and the river runs below it. Who lives in the house?",
    "A carrel is a small desk in a library where one person reads in peace.",
    "How many books can a reader borrow? Five books for four weeks, said the librarian.",
    "Numbers like 3.14, 2026 and 1,000,000 are cut into digits; emails like a.b@example.org are not words.",
    "def answer(question): return retrieve(question) + rerank(question)  # code is text too",
    "图书馆的阅览室里有一张小书桌,读者可以安静地看书。",
    "问题:一个读者可以借几本书?答案:可以借五本书,期限四个星期。",
    "检索、重排和生成放在同一个进程里,向量和文字都不离开这台机器。",
    "山上的房子旁边有一条河,河水从山下流过。😀🎉🚀 Ünïcödé façade naïve café.",
)

CHATML = (
    "{%- if tools %}<|im_start|>system\nTools:{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}<|im_end|>\n"
    "{% endif %}"
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]{% else %}{{ message.content }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)

Maker = Callable[[Path], None]


# Tokenizers.


def byte_level_bpe(specials: Sequence[str], vocab_size: int = 640) -> Tokenizer:
    """As GPT-2, Qwen, Llama 3 and RoBERTa have: every byte has a token, so any text round-trips."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def word_piece() -> Tokenizer:
    """As BERT has: lower case, Chinese characters one by one."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def unigram() -> Tokenizer:
    """As XLM-RoBERTa has: SentencePiece's unigram model with its visible space."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=480, special_tokens=specials, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = _roberta_pairs()
    return tokenizer


def _roberta_pairs() -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )


def _save_tokenizer(tokenizer: Tokenizer, folder: Path, *, chat_template: str | None = None, **names: Any) -> None:
    make_fast: Any = PreTrainedTokenizerFast  # transformers gives it no types
    fast = make_fast(tokenizer_object=tokenizer, **names)
    if chat_template is not None:
        fast.chat_template = chat_template
    fast.save_pretrained(folder)


def save_chatml_tokenizer(folder: Path, *, bos: bool = False) -> Tokenizer:
    """<|endoftext|> pads, <|im_end|> ends a turn; with ``bos``, <|begin|> stands before every prompt."""
    tokenizer = byte_level_bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin|>"])
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    if bos:
        names["bos_token"] = "<|begin|>"
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", pair="<|begin|> $A $B", special_tokens=[("<|begin|>", 3)]
        )
    _save_tokenizer(tokenizer, folder, chat_template=CHATML, model_max_length=2048, **names)
    return tokenizer


def save_inst_tokenizer(folder: Path) -> Tokenizer:
    """Mistral's manner: <s>, </s>, [INST]; its template refuses roles that do not alternate."""
    tokenizer = byte_level_bpe(["<unk>", "<s>", "</s>", "[INST]", "[/INST]"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    _save_tokenizer(tokenizer, folder, chat_template=INST, bos_token="<s>", eos_token="</s>", model_max_length=2048)
    return tokenizer


def save_bert_tokenizer(folder: Path) -> Tokenizer:
    tokenizer = word_piece()
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    _save_tokenizer(
        tokenizer,
        folder,
        mask_token="[MASK]",
        model_max_length=512,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **names,
    )
    return tokenizer


def save_roberta_tokenizer(folder: Path) -> Tokenizer:
    tokenizer = byte_level_bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = _roberta_pairs()
    _save_roberta_names(tokenizer, folder)
    return tokenizer


def save_xlmr_tokenizer(folder: Path) -> Tokenizer:
    tokenizer = unigram()
    _save_roberta_names(tokenizer, folder)
    return tokenizer


def _save_roberta_names(tokenizer: Tokenizer, folder: Path) -> None:
    _save_tokenizer(
        tokenizer,
        folder,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )


# Models.


def random_model(name: str, config: dict[str, Any], *, seed: int = 0) -> PreTrainedModel:
    """transformers' class ``name`` with random weights; norms and biases too, so that nothing hides at 0 or 1."""
    model_class = getattr(transformers, name)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = model_class(model_class.config_class(**config)).eval()
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if key.endswith("bias") or "norm" in key.lower():
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def save_model(
    model: PreTrainedModel, folder: Path, *, dtype: torch.dtype = torch.float32, shards: bool = False
) -> None:
    torch.nn.Module.to(model, dtype)  # in place
    model.save_pretrained(folder, max_shard_size="150KB" if shards else "5GB")


DECODER = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.08,
}
ENCODER = {
    "hidden_size": 48,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "initializer_range": 0.08,
}


def decoder(
    name: str,
    *,
    bos: bool = False,
    dtype: torch.dtype = torch.float32,
    shards: bool = False,
    **config: Any,
) -> Maker:
    """A chat model; ``config`` goes to transformers' config class."""

    def make(folder: Path) -> None:
        inst = name.startswith("Mistral")
        tokenizer = save_inst_tokenizer(folder) if inst else save_chatml_tokenizer(folder, bos=bos)
        ends = 2 if inst else [2, 0]  # </s>; or <|im_end|> and <|endoftext|>
        begin = 1 if inst else 3 if bos else None
        sizes = {**DECODER, "vocab_size": tokenizer.get_vocab_size(), "eos_token_id": 2, "bos_token_id": begin}
        model = random_model(name, {"pad_token_id": 0, **sizes, **config})
        model.generation_config.eos_token_id = ends
        model.generation_config.pad_token_id = 0
        save_model(model, folder, dtype=dtype, shards=shards)

    return make


def _encoder_parts(name: str, folder: Path) -> dict[str, Any]:
    """Saves the tokenizer and gives the sizes of the config."""
    if name.startswith("Bert"):
        vocab = save_bert_tokenizer(folder).get_vocab_size()
        return {**ENCODER, "vocab_size": vocab, "max_position_embeddings": 512, "pad_token_id": 0}
    save = save_xlmr_tokenizer if name.startswith("XLM") else save_roberta_tokenizer
    vocab = save(folder).get_vocab_size()
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    return {**ENCODER, "vocab_size": vocab, "max_position_embeddings": 514, "type_vocab_size": 1, **ids}


def embedder(
    name: str,
    *modes: str,
    normalize: bool = True,
    dense: int | None = None,
    prompts: dict[str, str] | None = None,
    max_seq_length: int = 256,
    dtype: torch.dtype = torch.float32,
) -> Maker:
    """A sentence-transformers folder; ``modes`` by the names in 1_Pooling/config.json, ``dense`` the output size."""

    def make(folder: Path) -> None:
        if name.startswith("Qwen"):
            tokenizer = save_chatml_tokenizer(folder)
            config: dict[str, Any] = {
                **DECODER,
                "vocab_size": tokenizer.get_vocab_size(),
                "head_dim": 16,
                "pad_token_id": 0,
            }
        else:
            config = _encoder_parts(name, folder)
        save_model(random_model(name, config), folder, dtype=dtype)
        write_modules(folder, modes, config["hidden_size"], normalize=normalize, dense=dense, length=max_seq_length)
        meta = {"prompts": prompts or {}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
        _write_json(folder / "config_sentence_transformers.json", meta)

    return make


def reranker(name: str, *, num_labels: int = 1, spans: bool = False) -> Maker:
    """A cross-encoder; with ``spans`` it also says of each token whether the answer starts or ends there."""

    def make(folder: Path) -> None:
        config = {**_encoder_parts(name, folder), "num_labels": num_labels}
        model = random_model(name, config)
        if spans:
            with torch.random.fork_rng():
                torch.manual_seed(1)
                model.qa_outputs = torch.nn.Linear(config["hidden_size"], 2)
        save_model(model, folder)

    return make


def write_modules(
    folder: Path, modes: Sequence[str], hidden_size: int, *, normalize: bool, dense: int | None, length: int
) -> None:
    """modules.json and the folders it names, in the spelling that most models on the hub have."""
    names = ["Transformer", "Pooling"] + ["Dense"] * (dense is not None) + ["Normalize"] * normalize
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": "" if index == 0 else f"{index}_{name}",
            "type": f"sentence_transformers.models.{name}",
        }
        for index, name in enumerate(names)
    ]
    _write_json(folder / "modules.json", modules)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
    all_modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    flags: dict[str, Any] = {f"pooling_mode_{mode}": mode in modes for mode in all_modes}
    _write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": hidden_size, **flags})
    if dense is not None:
        _write_dense(folder / "2_Dense", hidden_size * len(modes), dense)
    if normalize:
        (folder / f"{len(names) - 1}_Normalize").mkdir()


def _write_dense(folder: Path, in_features: int, out_features: int) -> None:
    activation = "torch.nn.modules.activation.Tanh"
    sizes = {"in_features": in_features, "out_features": out_features}
    _write_json(folder / "config.json", {**sizes, "bias": True, "activation_function": activation})
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(out_features, in_features, generator=generator) / in_features**0.5
    tensors = {"linear.weight": weight, "linear.bias": torch.randn(out_features, generator=generator) * 0.1}
    save_file(tensors, folder / "model.safetensors")


def _write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, ensure_ascii=False, indent=2), encoding="utf-8")


def _rope(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 10_000.0, "rope_type": kind, **values}}


LLAMA3 = _rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
YARN = _rope("yarn", factor=4.0, original_max_position_embeddings=512)
WINDOWS: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}
PROMPTS = {"query": "为这个句子生成表示以用于检索相关文章:", "passage": "passage: "}

VARIANTS: dict[str, Maker] = {
    "llama": decoder("LlamaForCausalLM", bos=True),
    "llama-llama3": decoder("LlamaForCausalLM", bos=True, **LLAMA3),
    "llama-yarn": decoder("LlamaForCausalLM", bos=True, tie_word_embeddings=True, **YARN),
    "llama-linear": decoder("LlamaForCausalLM", attention_bias=True, mlp_bias=True, **_rope("linear", factor=2.0)),
    "qwen2": decoder("Qwen2ForCausalLM", tie_word_embeddings=True),
    "qwen2-untied": decoder("Qwen2ForCausalLM"),
    "qwen2-sharded": decoder("Qwen2ForCausalLM", tie_word_embeddings=True, shards=True),
    "qwen2-bf16": decoder("Qwen2ForCausalLM", tie_word_embeddings=True, dtype=torch.bfloat16),
    "qwen2-fp16": decoder("Qwen2ForCausalLM", tie_word_embeddings=True, dtype=torch.float16),
    "qwen2-window": decoder("Qwen2ForCausalLM", tie_word_embeddings=True, **WINDOWS),
    "qwen3": decoder("Qwen3ForCausalLM", tie_word_embeddings=True, head_dim=32),
    "mistral": decoder("MistralForCausalLM", sliding_window=24),
    "bert-mean": embedder("BertModel", "mean_tokens"),
    "bert-cls": embedder("BertModel", "cls_token", normalize=False),
    "bert-mean-max": embedder("BertModel", "mean_tokens", "max_tokens"),
    "bert-bf16": embedder("BertModel", "mean_tokens", dtype=torch.bfloat16),
    "roberta-dense": embedder("RobertaModel", "mean_tokens", dense=24),
    "xlmr-prompts": embedder("XLMRobertaModel", "cls_token", prompts=PROMPTS),
    "xlmr-weighted": embedder("XLMRobertaModel", "weightedmean_tokens", normalize=False),
    "qwen3-last": embedder("Qwen3Model", "lasttoken"),
    "bert-reranker": reranker("BertForSequenceClassification"),
    "bert-classifier": reranker("BertForSequenceClassification", num_labels=3),
    "bert-spans": reranker("BertForSequenceClassification", spans=True),
    "xlmr-spans": reranker("XLMRobertaForSequenceClassification", spans=True),
    "roberta-reranker": reranker("RobertaForSequenceClassification"),
    "xlmr-reranker": reranker("XLMRobertaForSequenceClassification"),
}


def make_model(name: str, folder: Path) -> Path:
    """Make the variant ``name`` in ``folder``, which is created.

    >>> make_model("qwen2", Path("/tmp/tiny/qwen2"))  # doctest: +SKIP
    PosixPath('/tmp/tiny/qwen2')
    """
    folder.mkdir(parents=True)
    VARIANTS[name](folder)
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder that gets one folder for each model")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(VARIANTS)}; all if none is given")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in VARIANTS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    for name in options.names or VARIANTS:
        print(make_model(name, options.out / name))


if __name__ == "__main__":
    main()
