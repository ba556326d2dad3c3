"""Which keys of a config transformers reads, held against its source and against its logits.

A key that its class reads must be understood or refused; one that it does not read is passed over, and noted.
"""

import dataclasses
import inspect
import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from tiny_models import VARIANTS, save

from edgepress.errors import InputError
from edgepress.exporter.model.architectures import architecture, model_types, unread_keys
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import READ_BY_ALL, WITHOUT_EFFECT, Config

SOURCE = Path(transformers.__file__).parent
SHARED = ("masking_utils.py", "cache_utils.py", "modeling_rope_utils.py")  # read configs of every model
READS = re.compile(r"""\bconfig\.(\w+)|getattr\(\s*\w*config\w*,\s*["'](\w+)["']""")
# Classes in those files that are no part of a text model.
OF_OTHERS = re.compile(r"class \w*(Vision|Audio|Multimodal|ForConditionalGeneration|Gemma(4|3n)Model\b)")
# Words after `config.` in those files that are no keys, or keys of other models in the same file.
METHODS = {"get_text_config", "to_dict", "get", "json", "standardize_rope_params", "validate_rope", "default_theta"}
OTHERS = {
    "gemma3_text": {
        *("text_config", "vision_config", "mm_tokens_per_image"),  # of Gemma 3 with images
        "attn_logit_softcapping",  # kept, and never applied: the logits below say so
    },
    "qwen3_5_text": {
        *(field.name for field in dataclasses.fields(transformers.Qwen3_5VisionConfig)),  # of Qwen 3.5 with images
        *("depth", "text_config", "vision_config"),
    }
    - {field.name for field in dataclasses.fields(transformers.Qwen3_5TextConfig)},
    "qwen3_5_moe_text": {
        *(field.name for field in dataclasses.fields(transformers.Qwen3_5MoeVisionConfig)),
        *("depth", "text_config", "vision_config"),
    }
    - {field.name for field in dataclasses.fields(transformers.Qwen3_5MoeTextConfig)},
    "gemma3n_text": {"gradient_clipping"},  # of its sounds
    "gemma4_text": {"standardize", "use_clipped_linears"},  # of its images and sounds
    "gemma4_unified_text": {"audio_config", "text_config", "vision_config"},  # of the whole
    "shared": {"number_of_conv_states", "num_hidden_layers", "head_dim", "hidden_size", "num_attention_heads"},
}


def reads(text: str) -> set[str]:
    return {name for pair in READS.findall(text) for name in pair if name} - METHODS


def has_no_effect(key: str) -> bool:
    return any(re.fullmatch(pattern, key) for pattern in WITHOUT_EFFECT) or key.startswith("_")


@pytest.mark.parametrize("kind", model_types())
def test_every_key_that_the_class_reads_is_understood_or_refused(kind: str) -> None:
    config_class = transformers.CONFIG_MAPPING[kind]
    source = inspect.getsourcefile(transformers.MODEL_FOR_CAUSAL_LM_MAPPING[config_class])  # of another family at times
    assert source is not None
    classes = re.split(r"^(?=class )", Path(source).read_text(encoding="utf-8"), flags=re.M)
    found = {key for part in classes if not OF_OTHERS.match(part) for key in reads(part)}
    found |= {field.name for field in dataclasses.fields(config_class)} | set(config_class.attribute_map)
    config = Config({})
    family = architecture(kind)
    family.read(config)
    known = {*config._read, *READ_BY_ALL, *family.config_keys, *family.aliases, *OTHERS.get(kind, ())}
    assert {key for key in found - known if not has_no_effect(key)} == set()


def test_every_key_that_shared_code_reads_is_understood_or_refused() -> None:
    found = {key for name in SHARED for key in reads((SOURCE / name).read_text(encoding="utf-8"))}
    assert {"is_causal", "layer_types"} <= found  # the pattern finds them
    config = Config({})
    read_rope(config, head_dim=8, context_length=8)
    known = {*config._read, *READ_BY_ALL, *OTHERS["shared"], "max_position_embeddings", "vocab_size"}
    assert {key for key in found - known if not has_no_effect(key)} == set()


# Keys of other models and of nobody, with values that would be heard of where they are read.
FOREIGN: dict[str, object] = {
    "activation": "swiglu",
    "activation_function": "relu",
    "attention_bias": True,
    "attention_multiplier": 0.01,
    "attention_sink": 4,
    "attn_logit_softcapping": 0.1,
    "clip_qkv": 0.01,
    "dual_chunk_attention_config": {"chunk_size": 2},
    "embedding_multiplier": 7.0,
    "final_logit_softcapping": 0.1,
    "full_attn_mod": 2,
    "head_dim": 8,
    "hidden_act": "relu",
    "hidden_activation": "relu",
    "interpolate_factor": 4,
    "intermediate_size": 32,
    "is_decoder": True,
    "layer_norm_epsilon": 0.5,
    "lm_head_bias": True,
    "logit_scale": 0.1,
    "logits_scaling": 9.0,
    "max_window_layers": 1,
    "mlp_bias": True,
    "mystery_gate": 0.5,
    "n_embd": 32,
    "no_rope_layers": [0, 0, 0],
    "norm_eps": 0.5,
    "num_experts_per_tok": 2,
    "num_key_value_heads": 1,
    "num_local_experts": 8,
    "partial_rotary_factor": 0.5,
    "qk_layernorm": True,
    "qkv_bias": True,
    "query_pre_attn_scalar": 3,
    "residual_multiplier": 0.1,
    "rms_norm_eps": 0.5,
    "rope_interleaved": True,
    "rope_theta": 3.0,
    "rotary_pct": 0.25,
    "scale_attn_by_inverse_layer_idx": True,
    "tie_encoder_decoder": True,
    "use_bfloat16": True,
    "use_bidirectional_attention": True,
    "use_mrope": True,
    "use_sliding_window": True,
}


@pytest.mark.parametrize("kind", model_types())
def test_keys_that_are_passed_over_do_not_change_the_logits_of_transformers(kind: str, tmp_path: Path) -> None:
    name = next(name for name, variant in VARIANTS.items() if variant.model_type == kind)
    path = save(name, tmp_path) / "config.json"
    config = json.loads(path.read_text())
    passed = {key: value for key, value in FOREIGN.items() if key not in config and is_passed_over(config, key, value)}
    assert "mystery_gate" in passed
    assert len(passed) >= 10
    tokens = torch.arange(3, 67)[None]
    with torch.inference_mode():
        before = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)(tokens).logits
        path.write_text(json.dumps(config | passed))
        after = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)(tokens).logits
    assert torch.equal(before, after)


def is_passed_over(config: dict[str, object], key: str, value: object) -> bool:
    try:
        return any(f"{key} = " in note for note in unread_keys({**config, key: value}))
    except InputError:  # read, and refused
        return False
