"""A class's own default config, made small: what benchmarks/coverage.py tries every class of transformers on.

Sizes are replaced by the names that configs give them; every flag, pattern and activation stays as the class has it.
"""

from collections.abc import Mapping
from typing import Any

import torch
import transformers

VOCABULARY = 320
CONTEXT = 256
LAYERS = 4  # at least; more where the kinds of layers do not all come before
_MOST_LAYERS = 12

# Sizes under the names that transformers' configs have for them.
_SIZES: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embedding_size", "word_embed_proj_dim"), 128),
    **dict.fromkeys(("embed_dim", "decoder_hidden_size", "dim_model", "emb_dim", "lru_width"), 128),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_ff", "ffn_hidden_size", "dim_ff", "dff"), 96),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "attention_hidden_size", "dense_intermediate_size"), 96),
    **dict.fromkeys(("intermediate_size_mlp", "shared_intermediate_size", "moe_shared_expert_intermediate_size"), 96),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 32),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "n_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 4),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("encoder_layers", "num_decoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"), CONTEXT),
    **dict.fromkeys(("max_sequence_length", "max_target_positions", "max_source_positions"), CONTEXT),
    **dict.fromkeys(("original_max_position_embeddings",), CONTEXT),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_top_k", "top_k_experts"), 2),
    **dict.fromkeys(("head_dim", "kv_channels", "swa_head_dim"), 32),
    **dict.fromkeys(("v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim"), 16),
    **dict.fromkeys(("rotary_dim",), 16),
    **dict.fromkeys(("global_head_dim",), 64),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 24),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 32),
    **dict.fromkeys(("linear_num_key_heads",), 2),
    **dict.fromkeys(("linear_num_value_heads",), 4),
    **dict.fromkeys(("sliding_window", "attention_window_size", "window_size", "local_attention"), 16),
    **dict.fromkeys(("n_group",), 2),
    **dict.fromkeys(("topk_group",), 1),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size"), 16),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 32),
    **dict.fromkeys(("mamba_d_ssm", "mamba_intermediate_size"), 128),
    **dict.fromkeys(("time_step_rank", "mamba_dt_rank"), 8),
    **dict.fromkeys(("hidden_size_per_layer_input", "laurel_rank"), 16),
}
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0}
_OF_LAYERS = ("stage_names", "out_features", "out_indices", "_out_features", "_out_indices")  # follow from their number
_OF_CLASSES = ("model_type", "transformers_version", "architectures", "dtype", "_name_or_path")
_KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
_HALVES = ("encoder", "decoder")  # configs of their own in those of some that write sequences
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


def _axes_of(*sections: int) -> dict[str, object]:
    return {"text_config": {"rope_parameters": {"mrope_section": list(sections)}}}


# What a class asks of its sizes beside that, by model_type: sums and multiples that their names do not say.
EXTRA: dict[str, dict[str, object]] = {
    **{key: {"intermediate_size": 256} for key in ("mamba", "falcon_mamba")},
    "mamba2": {"num_heads": 8, "head_dim": 32, "n_groups": 2, "chunk_size": 16},
    "bamba": {
        "attn_layer_indices": [0],
        "mamba_n_heads": 8,
        "mamba_d_head": 32,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 16,
    },
    "falcon_h1": {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_n_groups": 1, "mamba_chunk_size": 16},
    "nemotron_h": {"mamba_num_heads": 8, "mamba_head_dim": 16, "n_groups": 2, "chunk_size": 16},
    "zamba2": {"mamba_headdim": 32, "n_mamba_heads": 8, "mamba_ngroups": 1, "chunk_size": 16},
    **{key: {"first_k_dense_replace": 1} for key in ("deepseek_v3", "glm4_moe")},
    "deepseek_v2": {"num_experts_per_tok": 2},  # which the class leaves open, as the others' experts
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "conv"]},
    "olmo_hybrid": {"linear_num_key_heads": 4},  # transformers saves convolutions in thirds
    "nemotron": {"num_key_value_heads": 2},
    **{key: {"head_dim": 32} for key in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    **{key: {"num_key_value_heads": 4} for key in ("minicpm3", "youtu", "axk1", "deepseek_v32")},
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320},
    "perceiver": {
        "num_latents": 16,
        "d_latents": 64,
        "d_model": 512,
        "num_self_attends_per_block": 2,
        "num_cross_attention_heads": 1,
    },
    "gemma4_text": {"num_kv_shared_layers": 0},
    "gemma3n_text": {"num_kv_shared_layers": 2, "activation_sparsity_pattern": None},
    **{
        key: _axes_of(4, 6, 6)
        for key in ("glm4v", "glm46v", "glmga", "glm_ocr", "paddleocr_vl", "qwen2_5_omni_thinker")
    },
    "hunyuan_vl": {"text_config": {"head_dim": 32, "rope_parameters": {"mrope_section": [4, 4, 4, 4]}}},
    "glm4v_moe": {"text_config": {"rope_parameters": {"mrope_section": [2, 3, 3]}, "num_hidden_layers": 3}},
    "musicflamingo": {
        "audio_config": {"model_type": "audioflamingo3_encoder"},
        "text_config": {"model_type": "qwen2"},
    },
    "qwen3_asr": {"eos_token_id": 2, "text_config": {"eos_token_id": 2}},
    "granite_docling": {"vision_config": {"out_hidden_size": 128}},
    "granite4_vision": {"image_grid_pinpoints": [[28, 28]], "deepstack_layer_map": [], "downsample_rate": "1/2"},
    "lw_detr": {"projector_scale_factors": [1.0], "num_feature_levels": 1},
    **{key: {"projection_dim": 128} for key in ("owlvit", "owlv2")},  # as wide as texts, whose queries images answer
    **{key: {"num_queries": 8} for key in ("grounding-dino", "mm-grounding-dino", "rf_detr")},  # fewer than proposals
    "zoedepth": {"backbone_config": {"num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]}},
    "tipsv2_dpt": {"backbone_config": {"num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]}},
    "chmv2": {"backbone_config": {"num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]}},
    "depth_pro": {"patch_size": 56, "intermediate_hook_ids": [1, 0], "scaled_images_feature_dims": [64, 64, 32]},
    **{key: {"num_blocks": 1, "num_queries": 8} for key in ("eomt", "eomt_dinov3")},  # blocks that see the queries
    "whisper": {"begin_suppress_tokens": [2]},
    "mistral4": {"head_dim": 32},  # of which half is rotated
    "mimi": {"upsample_groups": 128},
    "moonshine_streaming": {"num_key_value_heads": 4},  # which published checkpoints say
    "detr": {"encoder_attention_heads": 8, "decoder_attention_heads": 8},  # whose maps are norms' groups of eight
    "granitemoehybrid": {
        "mamba_n_heads": 8,
        "mamba_d_head": 32,
        "mamba_chunk_size": 16,
        "num_hidden_layers": 2,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "align": {
        "projection_dim": 80,  # as wide as images are
        "vision_config": {"width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320},
    },
    **{
        key: {"num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]}  # a level of the pyramid each
        for key in ("beit", "data2vec-vision")
    },
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    **{key: {"coordinate_size": 24, "shape_size": 16} for key in ("layoutlmv2", "layoutlmv3")},  # 4 and 2 are a row
    "luke": {"entity_vocab_size": 20, "entity_emb_size": 32},
    "xlnet": {"d_head": 32, "d_inner": 96},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 0},
    "shieldgemma2": {"yes_token_index": 5, "no_token_index": 6},
    "exaone4_5": {"vision_config": {"model_type": "exaone4_5_vision"}, "text_config": {"model_type": "exaone4"}},
}


def tiny_config(model_type: str, layers: int = LAYERS) -> transformers.PreTrainedConfig:
    """The default config of a class with small sizes; what the class refuses is raised as it is.

    It has ``layers`` layers, or as few more as have every kind of layer among them.
    """
    cls = transformers.CONFIG_MAPPING[model_type]
    values = _small(cls().to_dict(), layers)
    for one in (values, values.get("text_config")):
        if isinstance(one, dict) and one.get("eos_token_id") is None:
            one["eos_token_id"] = _TOKENS["eos_token_id"]  # published checkpoints say one
        if isinstance(one, dict) and one.get("vocab_size", VOCABULARY) is None:
            one["vocab_size"] = VOCABULARY  # which a checkpoint's tokenizer says
    return cls(**_merged(values, EXTRA.get(model_type, {})))


def _merged(values: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """The values with those of ``extra`` in their place, section by section."""
    inside = {
        key: _merged(values[key], found)
        for key, found in extra.items()
        if isinstance(values.get(key), Mapping) and isinstance(found, Mapping)
    }
    return {**values, **extra, **inside}


def _small(values: Mapping[str, Any], least: int) -> dict[str, Any]:
    layers = _layer_count(values, least)
    key_value_heads = _key_value_heads(values)
    left_out = _OF_CLASSES if _count(values) is None else (*_OF_CLASSES, *_OF_LAYERS)  # stages are as many as they were
    small: dict[str, Any] = {}
    for key, value in values.items():
        if key == "per_layer_config":  # what differs in some layers, by their numbers
            small[key] = {int(n): _small(some, least) for n, some in (value or {}).items() if int(n) < layers}
        elif isinstance(value, Mapping) and (key.endswith(("_config", "_cfg")) or key in _HALVES):
            small[key] = _small(value, least)
            if key in ("backbone_config", *_HALVES) and "model_type" in value:  # which the whole's does not say
                small[key]["model_type"] = value["model_type"]
        elif key in _LAYER_COUNTS:
            small[key] = layers
        elif key in _TOKENS and isinstance(value, int | list):
            small[key] = _TOKENS[key]
        elif key in _KEY_VALUE_HEADS and isinstance(value, int):
            small[key] = key_value_heads
        elif key in _SIZES and isinstance(value, int) and not isinstance(value, bool):
            small[key] = min(_SIZES[key], value) if value > 0 else value
        elif isinstance(value, list) and len(value) == _count(values) and layers < len(value):
            small[key] = value[:layers]  # one entry a layer
        elif key not in left_out:
            small[key] = value
    if "qk_rope_head_dim" in small and "head_dim" in small:
        small["head_dim"] = small["qk_rope_head_dim"]  # what rope is made for
    rope = small.get("rope_parameters")
    if isinstance(rope, Mapping) and rope.get("mrope_section"):
        small["rope_parameters"] = {**rope, "mrope_section": _axes(small, rope)}
    return small


def _axes(small: Mapping[str, Any], rope: Mapping[str, Any]) -> list[int]:
    """As many axes for the pairs of a smaller head, about as they were; the first takes what is left."""
    width = small.get("head_dim") or small["hidden_size"] // small["num_attention_heads"]
    pairs, before = int(width * rope.get("partial_rotary_factor", 1.0)) // 2, rope["mrope_section"]
    others = [pairs * axis // sum(before) for axis in before[1:]]
    return [pairs - sum(others), *others]


def _count(values: Mapping[str, Any]) -> int | None:
    return next((values[key] for key in _LAYER_COUNTS if isinstance(values.get(key), int)), None)


def _layer_count(values: Mapping[str, Any], least: int) -> int:
    """As few layers as have every kind of layer among them, ``least`` or more."""
    count = _count(values) or least
    patterns = [value for value in values.values() if isinstance(value, list) and len(value) == count]
    needed = max((_all_kinds_within(pattern) for pattern in patterns), default=0)
    return min(count, max(least, min(needed, _MOST_LAYERS)))


def _all_kinds_within(pattern: list[Any]) -> int:
    kinds = {repr(kind) for kind in pattern}
    return max(next(i for i, entry in enumerate(pattern, 1) if repr(entry) == kind) for kind in kinds) if kinds else 0


def _key_value_heads(values: Mapping[str, Any]) -> int:
    """As many key-value heads for 4 query heads as are in proportion: 1, 2 or 4."""
    heads = next((values[key] for key in ("num_attention_heads", "n_head", "num_heads") if values.get(key)), 4)
    given = next((values[key] for key in _KEY_VALUE_HEADS if isinstance(values.get(key), int)), heads)
    if not isinstance(heads, int) or given >= heads:
        return 4
    return 1 if 4 * given < 2 * heads else 2


def draw(model: torch.nn.Module, seed: int) -> None:
    """Weights with which everything matters to the logits: projections keep the scale of their input.

    Vectors (gains, biases, decays) stay near what their class starts them at, and differ.
    """
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            elif "embed" in name or "wte" in name or "wpe" in name:
                parameter.normal_(0.0, 0.3)
            else:
                parameter.normal_(0.0, 1.2 * max(parameter.shape[-1], 8) ** -0.5)
