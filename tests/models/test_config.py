"""Reading config.json: both spellings of rotary options, windows, tasks; what is not supported is refused by name."""

import json

import pytest
import transformers
from carrel.errors import ModelNotFoundError, UnsupportedModelError
from carrel.models.config import ModelConfig
from carrel.models.registry import family_of, supported_architectures

QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
BERT = {
    "architectures": ["BertModel"],
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


@pytest.fixture
def read(tmp_path):
    """Write config.json (and other files by keyword ``files``) and read it."""

    def write(raw, *, files=None, folder="model"):
        path = tmp_path / folder
        path.mkdir(exist_ok=True)
        for name, data in {"config.json": raw, **(files or {})}.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(data if isinstance(data, str) else json.dumps(data))
        return ModelConfig.from_folder(path)

    return write


def test_defaults_of_a_decoder(read):
    config = read(QWEN2)
    assert config.task == "chat"
    assert config.is_decoder
    assert config.qkv_bias
    assert not config.output_bias
    assert config.head_dim == 8
    assert config.max_model_len == 128
    assert config.rope.theta == 10_000.0
    assert config.sliding_windows == (None,) * 4
    assert config.embedding_dim is None


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_rotary_options_in_both_spellings(read, key):
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    if key == "rope_parameters":
        config = read(QWEN2 | {key: scaling | {"rope_theta": 5e5}})
    else:
        config = read(QWEN2 | {key: scaling, "rope_theta": 5e5})
    assert config.rope.rope_type == "yarn"
    assert config.rope.theta == 5e5
    assert config.rope.factor == 4.0
    assert config.rope.attention_factor == pytest.approx(1.1386, abs=1e-4)


def test_the_oldest_spelling_of_a_scaling_type(read):
    assert read(QWEN2 | {"rope_scaling": {"type": "linear", "factor": 2.0}}).rope.rope_type == "linear"


@pytest.mark.parametrize("name", ["dynamic", "longrope", "su"])
def test_other_rotary_scalings_are_refused_by_name(read, name):
    with pytest.raises(UnsupportedModelError, match=f"'{name}'.*default, linear, llama3, yarn"):
        read(QWEN2 | {"rope_scaling": {"rope_type": name, "factor": 2.0}})


def test_rotary_options_by_layer_type_are_refused(read):
    with pytest.raises(UnsupportedModelError, match="differ from layer to layer"):
        read(QWEN2 | {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}})


def test_the_tokenizers_limit_counts_where_there_is_no_other(read):
    files = {"tokenizer_config.json": {"model_max_length": 48}}
    assert read(BERT, files=files, folder="bge-a").max_model_len == 48
    files = {"tokenizer_config.json": {"model_max_length": 1e30}}
    assert read(BERT, files=files, folder="bge-b").max_model_len == 64


def test_partial_rotation_is_refused(read):
    with pytest.raises(UnsupportedModelError, match="partial_rotary_factor"):
        read(QWEN2 | {"partial_rotary_factor": 0.5})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sliding_window": 16},
        {"sliding_window": 16, "use_sliding_window": True},
        {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 2},
        {"sliding_window": 16, "use_sliding_window": False, "max_window_layers": 0},
        {"sliding_window": None, "use_sliding_window": True, "max_window_layers": 0},
        {
            "sliding_window": 16,
            "use_sliding_window": True,
            "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"],
        },
    ],
)
@pytest.mark.parametrize("family", ["Qwen2", "Qwen3"])
def test_windows_are_those_of_transformers(read, options, family):
    theirs = getattr(transformers, f"{family}Config")(**QWEN2, **options)
    expected = [theirs.sliding_window if kind == "sliding_attention" else None for kind in theirs.layer_types]
    config = read(QWEN2 | {"architectures": [f"{family}ForCausalLM"], **options})
    assert list(config.sliding_windows) == expected


def test_mistral_has_one_window_everywhere_or_none(read):
    mistral = QWEN2 | {"architectures": ["MistralForCausalLM"]}
    assert read(mistral | {"sliding_window": 16}).sliding_windows == (16,) * 4
    assert read(mistral | {"sliding_window": None}).sliding_windows == (None,) * 4


def test_llama_has_no_window(read):
    assert read(QWEN2 | {"architectures": ["LlamaForCausalLM"], "sliding_window": 16}).sliding_windows == (None,) * 4


def test_ends_of_sequence_come_from_both_files(read):
    files = {"generation_config.json": {"eos_token_id": [7, 9], "temperature": 0.7}}
    config = read(QWEN2 | {"eos_token_id": 8}, files=files)
    assert config.eos_token_ids == {7, 8, 9}
    assert config.generation["temperature"] == 0.7


def test_an_unknown_architecture_lists_what_there_is(read):
    with pytest.raises(UnsupportedModelError, match=r"GemmaForCausalLM.*LlamaForCausalLM.*Qwen3ForCausalLM"):
        read(QWEN2 | {"architectures": ["GemmaForCausalLM"]})
    assert family_of("XLMRobertaForSequenceClassification").name == "roberta"
    assert len(supported_architectures()) == 17


def test_no_architecture_says_what_to_add(read):
    with pytest.raises(UnsupportedModelError, match="architectures"):
        read({key: value for key, value in QWEN2.items() if key != "architectures"})


def test_quantised_checkpoints_are_refused(read):
    with pytest.raises(UnsupportedModelError, match="quant_method 'gptq'"):
        read(QWEN2 | {"quantization_config": {"quant_method": "gptq", "bits": 4}})


@pytest.mark.parametrize(
    "options", [{"hidden_act": "swish7"}, {"position_embedding_type": "relative_key"}, {"is_decoder": True}]
)
def test_encoder_options_that_change_the_arithmetic_are_refused(read, options):
    with pytest.raises(UnsupportedModelError, match="not supported"):
        read(BERT | options, folder="bge-x")


def test_a_head_makes_a_reranker(read):
    raw = BERT | {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    config = read(raw)
    assert config.task == "rerank"
    assert config.num_labels == 1
    with pytest.raises(UnsupportedModelError, match="Qwen2ForSequenceClassification"):
        read(QWEN2 | {"architectures": ["Qwen2ForSequenceClassification"]})


def test_roberta_counts_positions_after_the_padding(read):
    raw = BERT | {"architectures": ["XLMRobertaModel"], "max_position_embeddings": 514, "pad_token_id": 1}
    config = read(raw, folder="multilingual-e5-small")
    assert config.position_offset == 2
    assert config.max_model_len == 512
    assert config.pooling.modes == ("mean",)


@pytest.mark.parametrize(
    ("folder", "mode"), [("bge-small-zh-v1.5", "cls"), ("gte-base", "mean"), ("my-MiniLM", "mean")]
)
def test_known_families_without_modules_json(read, folder, mode):
    pooling = read(BERT, folder=folder).pooling
    assert pooling.modes == (mode,)
    assert pooling.normalize


def test_unknown_pooling_is_refused(read):
    with pytest.raises(UnsupportedModelError, match=r"no modules\.json"):
        read(BERT)


MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode_cls_token": True, "include_prompt": False},
        {"pooling_mode": "median"},
        {"pooling_mode_mean_tokens": False},
    ],
)
def test_pooling_that_carrel_does_not_have_is_refused(read, pooling):
    with pytest.raises(UnsupportedModelError, match="1_Pooling"):
        read(BERT, files={"modules.json": MODULES, "1_Pooling/config.json": pooling})


def test_other_modules_are_refused_by_name(read):
    weights = {"idx": 2, "name": "2", "path": "2_WordWeights", "type": "sentence_transformers.models.WordWeights"}
    files = {"modules.json": [*MODULES, weights], "1_Pooling/config.json": {"pooling_mode": "cls"}}
    with pytest.raises(UnsupportedModelError, match="WordWeights"):
        read(BERT, files=files)


def test_prompts_and_lengths(read):
    files = {
        "modules.json": MODULES,
        "1_Pooling/config.json": {"pooling_mode_lasttoken": True},
        "sentence_bert_config.json": {"max_seq_length": 40},
        "config_sentence_transformers.json": {"prompts": {"query": "查询:"}, "default_prompt_name": "query"},
    }
    config = read(BERT, files=files)
    assert config.max_model_len == 40
    assert config.pooling.modes == ("lasttoken",)
    assert config.pooling.prompts == {"query": "查询:"}
    assert config.pooling.default_prompt_name == "query"
    assert not config.pooling.normalize


def test_a_decoder_with_modules_is_an_embedder(read):
    files = {"modules.json": MODULES, "1_Pooling/config.json": {"pooling_mode": "lasttoken"}}
    config = read(QWEN2 | {"architectures": ["Qwen3ForCausalLM"]}, files=files)
    assert config.task == "embedding"
    assert config.embedding_dim == 32


@pytest.mark.parametrize("key", ["hidden_size", "vocab_size", "num_attention_heads"])
def test_a_size_that_is_missing_is_named(read, key):
    with pytest.raises(UnsupportedModelError, match=f"lacks '{key}'"):
        read({name: value for name, value in QWEN2.items() if name != key})


def test_no_folder_no_config_and_no_json_are_told_apart(read, tmp_path):
    with pytest.raises(ModelNotFoundError, match="no folder"):
        ModelConfig.from_folder(tmp_path / "nowhere")
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        ModelConfig.from_folder(tmp_path)
    with pytest.raises(UnsupportedModelError, match="not valid JSON"):
        read("{broken")
