import contextlib
import json
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import SMALL

from edgepress.errors import InputError
from edgepress.exporter.model.architectures import architecture, describe, model_types, unread_keys
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.source.config import Config

# Published config.json files, as their models' pages show them.
SMOLLM2_135M = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "silu",
    "hidden_size": 576,
    "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536,
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_interleaved": False,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.1",
    "use_cache": True,
    "vocab_size": 49152,
}
QWEN25_05B = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 896,
    "initializer_range": 0.02,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 24,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.1",
    "use_cache": True,
    "use_mrope": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
GEMMA3_1B = {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 106],
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "initializer_range": 0.02,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "use_cache": True,
    "vocab_size": 262144,
}
SMOLLM3_3B = {
    "architectures": ["SmolLM3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": None,
    "eos_token_id": 128012,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "layer_types": ["full_attention"] * 36,
    "max_position_embeddings": 65536,
    "max_window_layers": 28,
    "mlp_bias": False,
    "model_type": "smollm3",
    "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1, 1, 0] * 9,
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 4,
    "pad_token_id": 128004,
    "pretraining_tp": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.54.0.dev0",
    "use_cache": False,
    "use_sliding_window": False,
    "vocab_size": 128256,
}
PHI4_MINI = {
    "architectures": ["Phi3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
    "bos_token_id": 199999,
    "embd_pdrop": 0.0,
    "eos_token_id": 199999,
    "full_attn_mod": 1,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "interpolate_factor": 1,
    "lm_head_bias": False,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "phi3",
    "num_attention_heads": 24,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "original_max_position_embeddings": 4096,
    "pad_token_id": 199999,
    "partial_rotary_factor": 0.75,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"long_factor": [2.0] * 48, "short_factor": [1.0] * 48, "type": "longrope"},
    "rope_theta": 10000.0,
    "sliding_window": 262144,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0",
    "use_cache": True,
    "vocab_size": 200064,
}
GPT2 = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}


def read(values: Mapping[str, object]) -> Decoder:
    return describe(values, ["model.x", "transformer.x"])


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (SMOLLM2_135M, 134_515_008),
        (QWEN25_05B, 494_032_768),
        (GEMMA3_1B, 999_885_952),
        (SMOLLM3_3B, 3_075_098_624),
        (PHI4_MINI, 3_836_021_760),
        (GPT2, 124_439_808),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_published_configs_give_their_parameter_counts(config: dict[str, object], parameters: int) -> None:
    count = 0
    for weight in read(config).weights():
        rows, *columns = weight.shape
        count += rows * (columns[0] if columns else 1)
    assert count == parameters


def test_gemma_layers_alternate_as_its_pattern_says() -> None:
    windows = [layer.mixer(Attention).window for layer in read(GEMMA3_1B).layers]
    assert windows == ([512] * 5 + [None]) * 4 + [512] * 2


def test_a_window_as_long_as_the_context_is_none() -> None:
    assert {layer.mixer(Attention).window for layer in read(PHI4_MINI).layers} == {None}


def small(model_type: str = "llama", **changes: object) -> dict[str, object]:
    return {key: value for key, value in {**SMALL, "model_type": model_type, **changes}.items() if value is not ...}


ROPE = {"rope_type": "default", "rope_theta": 1e4}
REFUSED = {
    "a step that was removed": (
        small(low_rank={"layers.0.mlp.up": 8}),
        "config.json: low_rank was removed: at the same size",
    ),
    "activation": (small(hidden_act="relu6"), "hidden_act = 'relu6'"),
    "proportional rope": (small(rope_scaling={"type": "proportional", "factor": 2.0}), "type = 'proportional'"),
    "mrope": (small("qwen2", rope_scaling={"type": "mrope", "mrope_section": [2, 3, 3]}), "type = 'mrope'"),
    "rope types that differ": (small(rope_scaling={"type": "linear", "rope_type": "yarn"}), "rope_type = 'yarn'"),
    "two thetas": (small(rope_theta=5e5, rope_parameters=ROPE), "rope_theta = 10000.0: contradicts"),
    "both rope forms": (small(rope_scaling={"type": "linear", "factor": 2.0}, rope_parameters=ROPE), "rope_scaling"),
    "rope nested by layer": (small("qwen2", rope_parameters={"full_attention": ROPE}), "full_attention"),
    "flat rope for gemma": (small("gemma3_text", rope_parameters=ROPE), "rope_type = 'default'"),
    "partial rotary": (small(partial_rotary_factor=0.5), "partial_rotary_factor = 0.5"),
    "odd rotary": (small("phi3", partial_rotary_factor=0.45), "partial_rotary_factor = 0.45"),
    "longrope factors": (
        small("phi3", rope_scaling={"type": "longrope", "short_factor": [1.0] * 3, "long_factor": [1.0] * 8}),
        "short_factor = [1.0, 1.0, 1.0]: must be a list of 8 numbers",
    ),
    "infinite frequencies": (
        small(rope_scaling={"rope_type": "linear", "factor": 1e-300}),
        "rope_scaling: these rope parameters give frequencies that are not finite",
    ),
    "phi3 linear rope": (small("phi3", rope_scaling={"type": "linear", "factor": 2.0}), "type = 'linear'"),
    "quantized": (small(quantization_config={"quant_method": "gptq"}), "quantized already"),
    "window in llama": (small(sliding_window=64), "sliding_window = 64"),
    "bidirectional": (small("gemma3_text", use_bidirectional_attention=True), "use_bidirectional_attention = True"),
    "not causal": (small(is_causal=False), "is_causal = False: not implemented; only True is"),
    "layer types in llama": (small(layer_types=["full_attention", "sliding_attention"]), "would change the model"),
    "partial rotary in gemma": (small("gemma3_text", partial_rotary_factor=0.5), "partial_rotary_factor = 0.5"),
    "quantized by MLX": (small(quantization={"group_size": 64, "bits": 4}), "quantized already"),
    "cross attention": (small("gpt2", add_cross_attention=True), "add_cross_attention = True"),
    "layer type": (
        small("qwen3", layer_types=["full_attention", "chunked_attention", "full_attention"]),
        "known: full_attention, sliding_attention",
    ),
    "layer types too few": (small("qwen3", layer_types=["full_attention"]), "must be a list of 3"),
    "window switched off": (small("qwen2", layer_types=["sliding_attention"] * 3), "no sliding window is set"),
    "mistral layer types": (small("mistral", layer_types=["full_attention"] * 3), "contradicts sliding_window = 4096"),
    "kv heads": (small(num_key_value_heads=3), "num_key_value_heads = 3: must divide"),
    "heads": (small(num_attention_heads=6), "hidden_size = 64: must be a multiple"),
    "zero": (small(num_hidden_layers=0), "num_hidden_layers = 0: must be an integer of at least 1"),
    "boolean as number": (small(hidden_size=True), "hidden_size = True: must be an integer"),
    "text as number": (small(hidden_size="64"), "hidden_size = '64': must be an integer"),
    "fraction": (small(hidden_size=64.5), "hidden_size = 64.5: must be an integer"),
    "number as flag": (small(tie_word_embeddings=1), "tie_word_embeddings = 1: must be true or false"),
    "not finite": (small(rms_norm_eps=float("inf")), "rms_norm_eps = inf: must be a finite number above 0"),
    "list as mapping": (small(rope_scaling=[1]), "rope_scaling = [1]: must be a mapping"),
    "no model type": (small(model_type=None), "model_type = None: must be one of "),
    "unknown family": (small("reformer"), "architecture 'reformer' is not implemented; known: "),
}


@pytest.mark.parametrize(("config", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_implemented_is_named(config: dict[str, object], message: str) -> None:
    config = json.loads(json.dumps(config))
    if config["model_type"] == "gpt2":
        config = {"model_type": "gpt2", "add_cross_attention": config["add_cross_attention"]}
    with pytest.raises(InputError) as error:
        read(config)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


PASSED_OVER = {
    "experts": (small(num_local_experts=8), "num_local_experts = 8"),
    "attention sink": (small(attention_sink=4), "attention_sink = 4"),
    "interleaved": (small(rope_interleaved=True), "rope_interleaved = True"),
    "mrope flag": (small("qwen2", use_mrope=True), "use_mrope = True"),
    "attention softcap": (small("gemma3_text", attn_logit_softcapping=50.0), "attn_logit_softcapping = 50.0"),
    "bias in qwen2": (small("qwen2", attention_bias=True), "attention_bias = True"),
    "bias in mistral": (small("mistral", attention_bias=True), "attention_bias = True"),
    "typo": (small(num_hiden_layers=4, num_hidden_layers=...), "was num_hidden_layers meant?"),
    "dual chunk": (small("qwen2", dual_chunk_attention_config={"chunk_size": 8}), "dual_chunk_attention_config"),
    "unknown rope key": (small(rope_parameters={**ROPE, "finetuned": True}), "rope_parameters: finetuned = True"),
    "another rope's key": (small(rope_scaling={**ROPE, "original_max_position_embeddings": 64}), "= 64 is passed over"),
}


@pytest.mark.parametrize(("config", "message"), PASSED_OVER.values(), ids=PASSED_OVER)
def test_keys_that_transformers_does_not_read_are_passed_over_and_noted(
    config: dict[str, object], message: str
) -> None:
    assert isinstance(read(config), Decoder)
    [note] = unread_keys(config)
    assert message in note
    assert "passed over" in note


def test_rotary_embedding_in_several_axes_is_noted_to_be_plain_for_text() -> None:
    config = small(rope_parameters={**ROPE, "mrope_section": [2, 3, 3]})
    assert read(config).ropes == read(small(rope_parameters=ROPE)).ropes
    [note] = unread_keys(config)
    assert "mrope_section = [2, 3, 3]" in note
    assert "a token of text has the same position in every axis" in note


HARMLESS = {
    "biases off": small("qwen2", attention_bias=False, mlp_bias=False),
    "full attention in all layers": small(layer_types=["full_attention"] * 3),
    "causal": small(is_causal=True),
    "null": small(attention_sink=None),
    "both rope forms": small(
        rope_scaling={"type": "linear", "factor": 2.0},
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
    ),
    "both rope forms of gemma": small(
        "gemma3_text",
        rope_scaling={"rope_type": "linear", "factor": 8.0},
        rope_parameters={"full_attention": {"rope_type": "linear", "factor": 8.0}, "sliding_attention": ROPE},
    ),
}


@pytest.mark.parametrize("config", HARMLESS.values(), ids=HARMLESS)
def test_values_that_say_what_is_done_anyway_are_no_note(config: dict[str, object]) -> None:
    assert isinstance(read(config), Decoder)
    assert unread_keys(config) == ()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("gemma3_text", "transformers does not read it for this model either; was head_dim meant?"),
        (
            "acme",
            "the file for acme does not read it, and transformers has no such model to compare with; was head_dim",
        ),
    ],
)
def test_a_note_speaks_of_transformers_only_where_it_has_the_model(kind: str, says: str) -> None:
    config = Config({"model_type": kind, "head_dimm": 8})
    config.significant = ()
    config.integer("head_dim", 4)
    config.finish()
    assert says in config.notes[0]


@pytest.mark.parametrize("kind", model_types())
def test_every_family_notes_keys_it_does_not_know(kind: str) -> None:
    [note] = unread_keys({"model_type": kind, "mystery_gate": 0.5})
    assert note == (
        "config.json: mystery_gate = 0.5 is passed over: transformers does not read it for this model either"
    )


@pytest.mark.parametrize("kind", model_types())
def test_every_family_has_the_defaults_of_transformers(kind: str) -> None:
    """A config with nothing but its type, against one that states what transformers' class then holds."""
    transformers = pytest.importorskip("transformers")
    stated = transformers.CONFIG_MAPPING[kind]().to_dict()
    assert read(json.loads(json.dumps(stated))) == read({"model_type": kind})


def test_null_means_not_set() -> None:
    config = Config({"a": None, "mystery": None}, "here")
    assert (config.integer("a", 3), config.optional_integer("a", 3), config.flag("a", True)) == (3, None, True)
    config.finish()


def test_a_missing_key_without_a_default_is_named() -> None:
    with pytest.raises(InputError, match="here: factor is missing"):
        Config({}, "here").number("factor")


def test_a_broken_architecture_file_is_not_called_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError(f"{name} has a bug")

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(ImportError, match="has a bug"):
        architecture("llama")


@pytest.mark.parametrize("kind", model_types())
def test_checkpoints_saved_without_their_head_have_no_prefix(kind: str) -> None:
    prefix = architecture(kind).base_prefix
    decoder = describe({"model_type": kind, "tie_word_embeddings": True}, ["norm.weight"])
    assert not any(part.tensor.startswith(prefix) for weight in decoder.weights() for part in weight.parts)


ROPES = {
    "linear": {"rope_type": "linear", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 32, "beta_slow": 1, "truncate": True, "mscale": 1.0},
    "longrope": {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "factor": 4.0},
}
numbers = st.integers(-3, 300) | st.floats() | st.floats(0.0, 2.0)
anything = numbers | st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.sampled_from(["", "default", "silu", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["rope_type", "factor"]), inner),
    max_leaves=4,
)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_whatever_a_config_holds_it_is_read_or_refused(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(model_types()))
    parameters = dict(ROPES[data.draw(st.sampled_from(sorted(ROPES)))])
    parameters[data.draw(st.sampled_from([*sorted(parameters), "rope_theta"]))] = data.draw(anything)
    config = small(kind) if kind != "gpt2" else {"model_type": kind, "n_embd": 64, "n_layer": 2, "n_head": 4}
    config["rope_parameters"] = {"full_attention": parameters} if kind == "gemma3_text" else parameters
    for key in data.draw(st.lists(st.sampled_from([*config, "head_dim", "sliding_window", "layer_types"]), max_size=2)):
        if key != "model_type":
            config[key] = data.draw(anything)
    with contextlib.suppress(InputError):  # and nothing else
        assert isinstance(read(config), Decoder)
