"""Tiny checkpoints as llama.cpp's converter writes them, with the gguf package: renamed, reordered, things left out."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np
from safetensors.torch import load_file

# The others are called as transformers calls them.
ARCHITECTURES = {"gemma3_text": "gemma3", "hunyuan_v1_dense": "hunyuan-dense"}
MAPPED = {  # whose names are asked of the package
    "ernie4_5": gguf.MODEL_ARCH.ERNIE4_5,
    "exaone4": gguf.MODEL_ARCH.EXAONE4,
    "hunyuan_v1_dense": gguf.MODEL_ARCH.HUNYUAN_DENSE,
    "lfm2": gguf.MODEL_ARCH.LFM2,
    "seed_oss": gguf.MODEL_ARCH.SEED_OSS,
}
INTERLEAVED = ("llama", "granite", "smollm3")
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
SANDWICHED = {  # families with a norm after each block
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
Kind = gguf.GGMLQuantizationType
QUANTIZED = (Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0)  # what the package can write
HALVES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), **dict.fromkeys(("Q4_K", "Q5_K", "Q4_1", "Q5_1"), (0, 2))}


def random_blocks(kind: Kind, rows: int, columns: int, *, seed: int) -> np.ndarray:
    """Rows of a type, of any bytes but for their float16 scales, which are numbers: (rows, bytes)."""
    size, nbytes = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows, columns // size, nbytes), np.uint8)
    for at in HALVES.get(kind.name, (0,)):
        halves = rng.normal(0, 1e-3, raw.shape[:2]).astype(np.float16)
        raw[:, :, at : at + 2] = halves[..., None].view(np.uint8)
    return raw.reshape(rows, -1)


def gguf_name(name: str, model_type: str) -> str:
    """The name that the converter gives a tensor."""
    stem, _, kind = name.rpartition(".")
    if model_type in MAPPED:
        return f"{gguf.get_tensor_name_map(MAPPED[model_type], 8).get_name(stem)}.{kind}"
    names = NAMES | (SANDWICHED if model_type in ("gemma2", "gemma3_text", "olmo2") else {})
    if not stem.startswith("model.layers."):
        return f"{names[stem]}.{kind}"
    _, _, number, inner = stem.split(".", 3)
    return f"blk.{number}.{names[inner]}.{kind}"


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows i and i + half of every head beside each other."""
    half = len(weight) // heads // 2
    order = [head * 2 * half + part * half + pair for head in range(heads) for pair in range(half) for part in (0, 1)]
    return weight[order]


def save_gguf(
    source: Path,
    path: Path,
    kind: Kind | Callable[[str], Kind] = Kind.F32,
    *,
    pre: str = "gpt-2",
    pieces: tuple[Sequence[str], Sequence[int], Sequence[float]] | None = None,
) -> Path:
    """Write a checkpoint as one GGUF file, its projections and tables as ``kind``.

    ``pieces`` are SentencePiece's tokens, their kinds and scores, in the place of the checkpoint's own tokenizer.
    """
    config = json.loads((source / "config.json").read_text())
    family = config["model_type"]
    writer = gguf.GGUFWriter(path, ARCHITECTURES.get(family, family))
    _write_config(writer, config)
    if pieces is None:
        _write_tokenizer(writer, json.loads((source / "tokenizer.json").read_text()), pre)
    else:
        _write_pieces(writer, *pieces)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config.get("num_key_value_heads")}
    for name, tensor in load_file(source / "model.safetensors").items():
        value = tensor.float().numpy()
        own = next((count for key, count in heads.items() if f".{key}." in name), None)
        if own is not None and family in INTERLEAVED:
            value = interleaved(value, own)
        if family.startswith("gemma") and name.endswith("norm.weight"):
            value = value + 1
        if value.ndim == 3:  # of a convolution by channel
            value = value.squeeze(1)
        asked = kind if isinstance(kind, Kind) else kind(name)
        stored = asked if value.ndim > 1 else Kind.F32
        if stored == Kind.F32:
            data = np.ascontiguousarray(value)
        elif stored in QUANTIZED:
            data = gguf.quants.quantize(value, stored)
        else:
            data = random_blocks(stored, *value.shape, seed=len(name))
        writer.add_tensor(gguf_name(name, family), data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_config(writer: gguf.GGUFWriter, config: Mapping[str, object]) -> None:
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    shared = config.get("num_key_value_heads") or heads
    if config["model_type"] == "lfm2":
        shared = [0 if kind == "conv" else shared for kind in config["layer_types"]]
        writer.add_shortconv_l_cache(config["conv_L_cache"])
    writer.add_head_count_kv(shared)
    writer.add_layer_norm_rms_eps(config.get("rms_norm_eps") or config["norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if config.get("head_dim"):
        writer.add_key_length(width)
        writer.add_value_length(width)
    rope = config.get("rope_parameters", {})
    rope = {"rope_type": "default", **rope.get("full_attention", rope)}
    if "rope_parameters" not in config:  # as transformers 4 wrote it
        scaled = config.get("rope_scaling") or {"type": "default"}
        rope = {**scaled, "rope_type": scaled["type"], "rope_theta": config["rope_theta"]}
    writer.add_rope_dimension_count(int(width * (rope.get("partial_rotary_factor") or 1)))
    base = rope["rope_theta"]
    if "alpha" in rope:  # Hunyuan's, of which the converter makes another base
        base, rope = base * rope["alpha"] ** (width / (width - 2)), {"rope_type": "default"}
    writer.add_rope_freq_base(base)
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
        if "original_max_position_embeddings" in rope:
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", _divisors(rope, width))
    if rope["rope_type"] == "longrope":
        writer.add_tensor("rope_factors_long.weight", np.array(rope["long_factor"], np.float32))
        writer.add_tensor("rope_factors_short.weight", np.array(rope["short_factor"], np.float32))
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if config.get("sliding_window") and config["model_type"] in ("exaone4", "gemma2", "gemma3_text", "phi3"):
        writer.add_sliding_window(config["sliding_window"])
    if config.get("sliding_window") and config["model_type"] == "exaone4":
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config["layer_types"]])
    if config["model_type"] == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if config["model_type"] == "granite":
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])


def _divisors(rope: Mapping[str, float], width: int) -> np.ndarray:
    """Llama 3.1's, as the converter computes them."""
    found = []
    for frequency in 1.0 / rope["rope_theta"] ** (np.arange(0, width, 2) / width):
        wavelength = 2 * np.pi / frequency
        original = rope["original_max_position_embeddings"]
        low, high = original / rope["low_freq_factor"], original / rope["high_freq_factor"]
        if wavelength < high:
            found.append(1.0)
        elif wavelength > low:
            found.append(rope["factor"])
        else:
            smooth = (original / wavelength - rope["low_freq_factor"]) / (
                rope["high_freq_factor"] - rope["low_freq_factor"]
            )
            found.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(found, np.float32)


def _write_tokenizer(writer: gguf.GGUFWriter, content: Mapping[str, object], pre: str) -> None:
    vocabulary = content["model"]["vocab"]
    special = {token["content"] for token in content["added_tokens"] if token["special"]}
    tokens = sorted(vocabulary, key=vocabulary.get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in content["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)


def _write_pieces(
    writer: gguf.GGUFWriter, tokens: Sequence[str], kinds: Sequence[int], scores: Sequence[float]
) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_scores(scores)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
