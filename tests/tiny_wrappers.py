"""Tiny random models that take images or sound beside text, made and saved by transformers' own classes."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from families.qwen3_5_text import SIZES as QWEN3_5
from safetensors.torch import load_file, save_file
from tiny_models import draw, save_tokenizer
from variants import SMALL

# What the other towers' configs are made small with: each takes the keys that it has.
_SIDE = {
    "conf_hidden_size": 32,
    "d_model": 32,
    "depth": 1,
    "deepstack_visual_indexes": [0],
    "embed_dim": 32,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "encoder_layers": 1,
    "fullatt_block_indexes": [0],
    "head_dim": 16,
    "hidden_size": 32,
    "image_size": 28,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_heads": 2,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "num_layers": 1,
    "num_mel_bins": 16,
    "num_position_embeddings": 64,
    "out_hidden_size": 64,
    "patch_size": 14,
    "projection_dim": 32,
    "vocab_size": 64,
}


@dataclass(frozen=True)
class Wrapper:
    """One tiny whole: its ``model_type``, its text model's, and what is then changed in the files.

    ``text`` and ``whole`` differ from the tiny configs, ``names`` gives the tensors other names, ``tensors`` makes
    others of them, ``patch`` the config other content: what other versions of transformers, and publishers' own code,
    write. Without a ``text_type`` the text model's keys are at the level of the whole's.
    """

    model_type: str
    text_type: str
    text: Mapping[str, object] = field(default_factory=dict)
    whole: Mapping[str, object] = field(default_factory=dict)
    names: Callable[[str], str] | None = None
    tensors: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None
    patch: Callable[[dict[str, object]], dict[str, object]] | None = None


def _axes(*sections: int, **more: object) -> dict[str, object]:
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": list(sections)}
    return {"rope_parameters": rope | more, "head_dim": 2 * sum(sections)}


def _version_5(name: str) -> str:
    """As transformers 5 names them in memory."""
    for before, after in (("language_model.model.", "model.language_model."), ("language_model.lm_head", "lm_head")):
        if name.startswith(before):
            return name.replace(before, after, 1)
    return name if name.startswith(("lm_head", "model.")) else f"model.{name}"


def _flat(config: dict[str, object]) -> dict[str, object]:
    """Qwen2-VL's first configs: the text model's keys beside vision_config, a rope of the type mrope; Hunyuan's too."""
    text = config["text_config"]
    assert isinstance(text, dict)
    rope = text["rope_parameters"]
    kept = {key: value for key, value in text.items() if key not in {"rope_parameters", "layer_types", "model_type"}}
    kept |= {"rope_theta": rope["rope_theta"]}
    kept["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    if "alpha" in rope:
        kept["rope_scaling"] = {"type": "xdrope", "xdrope_section": rope["mrope_section"], "alpha": rope["alpha"]}
        kept["rope_scaling"]["factor"] = rope["factor"]
    return kept | {key: value for key, value in config.items() if key != "text_config"} | {"torch_dtype": "float32"}


def _thinker(config: dict[str, object]) -> dict[str, object]:
    """Qwen's omni models: the thinker's config is a section beside those that speak."""
    return {"model_type": "qwen2_5_omni", "architectures": ["Qwen2_5OmniModel"], "thinker_config": config}


def _adapted(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Phi-4-multimodal's own code: adapters for images and sound around each matrix of the text model."""
    found = {}
    for name, value in tensors.items():
        inside = name.startswith("model.layers.") and value.ndim == 2
        found[name.replace(".weight", ".base_layer.weight") if inside else name] = value
        for side in ("A", "B") if inside else ():
            found[name.replace(".weight", f".lora_{side}.speech.weight")] = torch.ones(2, 2)
    return found


def _in_llm_config(config: dict[str, object]) -> dict[str, object]:
    """InternVL's own code."""
    kept = {key: value for key, value in config.items() if key != "text_config"}
    return kept | {"llm_config": config["text_config"], "architectures": ["InternVLChatModel"]}


_GEMMA = {
    "head_dim": 32,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
}
_GEMMA_4 = _GEMMA | {
    "global_head_dim": 64,
    "num_key_value_heads": 1,
    "hidden_size_per_layer_input": 32,
    "vocab_size_per_layer_input": 320,
    "num_hidden_layers": 6,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
}
_IMAGES = {key: _SIDE[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "head_dim")}
_IMAGES |= {"num_attention_heads": 2, "num_key_value_heads": 2}
_XDROPE = {
    "head_dim": 32,
    "rope_parameters": {"rope_theta": 1e4, "type": "xdrope", "factor": 1.0, "alpha": 1000.0, "xdrope_section": [4] * 4},
}
_PHI_4 = {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.75}, "tie_word_embeddings": True}
WRAPPERS = {
    "llava": Wrapper("llava", "llama"),
    "llava-version5-tied": Wrapper("llava", "llama", whole={"tie_word_embeddings": True}, names=_version_5),
    "llava_next": Wrapper("llava_next", "mistral", {"sliding_window": 16}),
    "llava_onevision": Wrapper("llava_onevision", "qwen2"),
    "gemma3": Wrapper("gemma3", "gemma3_text", _GEMMA),
    "gemma3-version5": Wrapper("gemma3", "gemma3_text", _GEMMA, names=_version_5),
    "gemma4": Wrapper("gemma4", "gemma4_text", _GEMMA_4, {"vision_config": {"model_type": "gemma4_vision", **_IMAGES}}),
    "gemma4_unified": Wrapper(
        "gemma4_unified",
        "gemma4_unified_text",
        _GEMMA | {"global_head_dim": 64, "num_key_value_heads": 1, "final_logit_softcapping": 3.0},
        {"vision_config": {"model_type": "gemma4_unified_vision", "mm_embed_dim": 64, "mm_posemb_size": 8}},
    ),
    "aya_vision": Wrapper("aya_vision", "cohere2", {"sliding_window": 16}),  # without Cohere's scale of logits
    "llava_next-granite": Wrapper("llava_next", "granite", {"logits_scaling": 8.0, "residual_multiplier": 0.5}),
    "smolvlm": Wrapper("smolvlm", "llama"),
    "idefics3": Wrapper("idefics3", "llama", whole={"tie_word_embeddings": True}),
    "internvl": Wrapper("internvl", "qwen3", {"head_dim": 32}, {"tie_word_embeddings": False}),
    "internvl-llm_config": Wrapper("internvl", "qwen2", patch=_in_llm_config),
    "mistral3": Wrapper("mistral3", "mistral", whole={"tie_word_embeddings": False}),
    "voxtral": Wrapper("voxtral", "llama"),
    "qwen2_vl": Wrapper("qwen2_vl", "qwen2_vl_text", _axes(2, 3, 3), {"tie_word_embeddings": True}),
    "qwen2_vl-flat": Wrapper("qwen2_vl", "qwen2_vl_text", _axes(2, 3, 3), patch=_flat),
    "qwen2_5_vl": Wrapper("qwen2_5_vl", "qwen2_5_vl_text", _axes(2, 3, 3)),
    "qwen3_vl": Wrapper("qwen3_vl", "qwen3_vl_text", _axes(6, 5, 5, mrope_interleaved=True)),
    "qwen3_5": Wrapper(
        "qwen3_5",
        "qwen3_5_text",
        QWEN3_5 | _axes(3, 3, 2, mrope_interleaved=True, partial_rotary_factor=0.25) | {"head_dim": 64},
        {"tie_word_embeddings": True},
    ),
    "glm4v": Wrapper("glm4v", "glm4v_text", _axes(1, 1, 2, partial_rotary_factor=0.5) | {"head_dim": 16}),
    "glm_ocr": Wrapper("glm_ocr", "glm_ocr_text", _axes(4, 6, 6)),
    "glm4v_moe": Wrapper(
        "glm4v_moe",
        "glm4v_moe_text",
        _axes(2, 3, 3, partial_rotary_factor=0.5)
        | {"head_dim": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    ),
    "paddleocr_vl": Wrapper("paddleocr_vl", "paddleocr_vl_text", _axes(2, 3, 3) | {"use_bias": True}),
    "paddleocr_vl-flat": Wrapper("paddleocr_vl", "paddleocr_vl_text", _axes(2, 3, 3), patch=_flat),
    "hunyuan_vl": Wrapper("hunyuan_vl", "hunyuan_vl_text", _XDROPE, patch=_flat),
    "granite_docling": Wrapper(
        "granite_docling",
        "granite_docling_text",
        {"logits_scaling": 8.0, "residual_multiplier": 0.5},
        {"pad_token_id": 0},
    ),
    "qwen2_5_omni": Wrapper(
        "qwen2_5_omni_thinker", "qwen2_5_omni_text", _axes(2, 3, 3), names="thinker.{}".format, patch=_thinker
    ),
    "qwen3_omni_moe_thinker": Wrapper(
        "qwen3_omni_moe_thinker",
        "qwen3_omni_moe_text",
        _axes(2, 3, 3) | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    ),
    "phi4_multimodal": Wrapper("phi4_multimodal", "", _PHI_4),
    "phi4mm": Wrapper(
        "phi4_multimodal",
        "",
        _PHI_4,
        tensors=_adapted,
        patch=lambda config: config | {"model_type": "phi4mm", "architectures": ["Phi4MMForCausalLM"]},
    ),
    "lfm2_vl": Wrapper("lfm2_vl", "lfm2", {"layer_types": ["conv", "full_attention", "conv"]}),
}


def save_wrapper(name: str, directory: Path) -> torch.nn.Module:
    """Write one of ``WRAPPERS`` in Hugging Face form and return transformers' model of it."""
    wrapper = WRAPPERS[name]
    config_class = transformers.CONFIG_MAPPING[wrapper.model_type]
    sides = {
        key: {name: value for name, value in _SIDE.items() if name in side.to_dict()} | {"model_type": side.model_type}
        for key, side in vars(config_class()).items()
        if isinstance(side, transformers.PretrainedConfig) and key != "text_config"
    }
    text = SMALL | wrapper.text
    whole = {"text_config": text | {"model_type": wrapper.text_type}} if wrapper.text_type else text
    torch.manual_seed(len(name))
    model = transformers.AutoModelForMultimodalLM.from_config(config_class(**(whole | sides | wrapper.whole)))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim:
                draw(parameter_name, parameter)
                parameter.mul_(0.3 if "q_norm" in parameter_name else 1.0)  # Gemma 4 does not divide its scores
    model.eval().save_pretrained(directory)
    save_tokenizer(directory)
    if wrapper.names is not None or wrapper.tensors is not None:
        path = directory / "model.safetensors"
        tensors = load_file(path) if wrapper.tensors is None else wrapper.tensors(load_file(path))
        rename = wrapper.names or str
        save_file({rename(key): value for key, value in tensors.items()}, path, {"format": "pt"})
    if wrapper.patch is not None:
        path = directory / "config.json"
        path.write_text(json.dumps(wrapper.patch(json.loads(path.read_text()))))
    return model
