"""A GGUF file's metadata as the config of a checkpoint in Hugging Face form, and what its tensors are called there.

llama.cpp's converter renames tensors, adds 1 to Gemma's gains and, where its own rotary embedding turns neighbouring
dimensions, reorders the rows of q and k; what it leaves out (patterns of layers, factors that its code has) is put
back. A key of the architecture that is not known here is an error: it may change the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.source.formats.gguf.families import Family, Values, families, load, whole
from edgepress.exporter.source.formats.gguf.file import Header

ReadFloats = Callable[[str], NDArray[np.float32]]

_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_KEYS = {  # of all architectures
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_READ = (
    "vocab_size",
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.finetuned",  # says that the model was trained so, and nothing of how it computes
)


def family_of(header: Header) -> Family:
    """The family of ``general.architecture``.

    Raises:
        InputError: it is none that is read.

    """
    name = header.values.get("general.architecture")
    known = {one.replace("_", "-"): one for one in families()} | {one: one for one in families()}
    if not isinstance(name, str) or name not in known:
        raise InputError(
            f"{header.path}: general.architecture = {name!r} is not read from GGUF files; {', '.join(families())} are. "
            "Export the original checkpoint"
        )
    return load(known[name])


def read_config(header: Header, read: ReadFloats) -> Values:
    """The config that the original had; ``read`` gives a small tensor whole.

    Raises:
        InputError: a key is missing, is no number, or is not known.

    """
    family, prefix = family_of(header), f"{header.values['general.architecture']}."
    values = {key.removeprefix(prefix): value for key, value in header.values.items() if key.startswith(prefix)}
    keys = {**_KEYS, **family.keys}
    for key, value in values.items():
        if key not in keys and key not in _READ and not (key.startswith("expert") and value == 0):
            raise InputError(
                f"{header.path}: {prefix}{key} = {str(value)[:80]} is not known here, and may change the model: export "
                "the original checkpoint"
            )
    config: Values = {"model_type": family.model_type, "architectures": [family.class_name]}
    for key, name in keys.items():
        if key in values:
            config[name] = _plain(values[key])
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"):
        if not isinstance(config.get(name), int):
            found = next(key for key, other in keys.items() if other == name)
            raise InputError(f"{header.path}: {prefix}{found} = {config.get(name)!r}: it must be a whole number")
    config["vocab_size"] = header.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in header.tensors else 0
    config["tie_word_embeddings"] = "output.weight" not in header.tensors
    if any(name.endswith("attn_q.bias") for name in header.tensors) and family.model_type != "qwen2":
        config[family.bias_key or "attention_bias"] = True
    if any(name.endswith("ffn_down.bias") for name in header.tensors):
        config[family.bias_key or "mlp_bias"] = True
    _add_widths(header, family, values, config)
    _add_rope(header, values, config, read)
    return config | family.more(values, config)


def _plain(value: object) -> object:
    """A list of one number for every layer is that number."""
    return value[0] if isinstance(value, list) and value and len({*map(str, value)}) == 1 else value


def _add_widths(header: Header, family: Family, values: Mapping[str, object], config: Values) -> None:
    """Heads' width, and how much of it is rotated."""
    hidden, heads = whole(config["hidden_size"]), whole(config["num_attention_heads"])
    width = values.get("attention.key_length", hidden // max(1, heads))
    if values.get("attention.value_length", width) != width:
        raise InputError(
            f"{header.path}: attention.value_length = {values['attention.value_length']}, and keys have {width}: "
            "not implemented"
        )
    if family.head_dim or (isinstance(width, int) and width * heads != hidden):
        config["head_dim"] = width
    rotated = values.get("rope.dimension_count", width)
    if isinstance(rotated, int) and isinstance(width, int) and rotated != width and width:
        config["partial_rotary_factor"] = rotated / width


def _add_rope(header: Header, values: Mapping[str, object], config: Values, read: ReadFloats) -> None:
    """Rotary frequencies: their base, and what scales them, which may be a tensor."""
    theta = values.get("rope.freq_base", 10_000.0)
    config["rope_theta"] = theta
    kind, factor = values.get("rope.scaling.type", "none"), values.get("rope.scaling.factor")
    original = values.get("rope.scaling.original_context_length")
    if "rope_freqs.weight" in header.tensors:
        config["rope_scaling"] = _llama3(header, read("rope_freqs.weight"), theta)
    elif "rope_factors_long.weight" in header.tensors:
        config["rope_scaling"] = {
            "rope_type": "longrope",
            "long_factor": read("rope_factors_long.weight").astype(float).tolist(),
            "short_factor": read("rope_factors_short.weight").astype(float).tolist(),
        }
        if isinstance(original, int):
            config["original_max_position_embeddings"] = original
    elif kind in ("linear", "yarn") and factor is not None:
        more = {"original_max_position_embeddings": original} if kind == "yarn" and original is not None else {}
        config["rope_scaling"] = {"rope_type": kind, "factor": factor, **more}
    elif kind not in ("none", "longrope") and factor not in (None, 0, 1.0):
        raise InputError(f"{header.path}: rope.scaling.type = {kind!r} is not implemented; linear and yarn are")


def _llama3(header: Header, found: NDArray[np.float32], theta: object) -> Values:
    """Llama 3.1's scaling from the divisors that it comes to: the published ones are tried, and have to give these."""
    pairs = np.arange(len(found), dtype=np.float64) / len(found)
    wavelengths = 2 * np.pi * float(theta if isinstance(theta, int | float) else 0) ** pairs
    for original in (8192, 32, 4096, 16384):
        factor, low, high = float(found.max()), 1.0, 4.0
        smooth = np.clip((original / wavelengths - low) / (high - low), 0, 1)
        if np.allclose(1 / ((1 - smooth) / factor + smooth), found, rtol=1e-3):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    raise InputError(
        f"{header.path}: rope_freqs.weight is not what Llama 3.1's rope scaling comes to; export the original "
        "checkpoint"
    )


def plain_name(family: Family, name: str) -> str | None:
    """What transformers calls a tensor; None where it has no such."""
    stem, _, kind = name.rpartition(".")
    outer = {**_OUTER, **family.outer}
    if kind not in ("weight", "bias"):
        return None
    if stem in outer:
        return f"{outer[stem]}.{kind}"
    block, _, rest = stem.partition(".")
    number, _, inner = rest.partition(".")
    found = family.names.get(inner) or _INNER.get(inner)
    return f"model.layers.{number}.{found}.{kind}" if block == "blk" and number.isdecimal() and found else None


def shape_of(family: Family, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that transformers gives a tensor: kernels of convolutions by channel have one input each."""
    inner = name.partition(".")[2].partition(".")[2].rpartition(".")
    is_kernel = inner[0] in family.kernels and inner[2] == "weight" and len(shape) == 2
    return (shape[0], 1, shape[1]) if is_kernel else shape


def heads_of(family: Family, name: str, config: Mapping[str, object]) -> int:
    """How many heads a tensor's rows are of that are reordered by pairs; 0 for one whose rows are as they were."""
    _, _, inner = name.partition(".")[2].partition(".")
    heads = config["num_attention_heads"]
    of = {"attn_q": heads, "attn_k": config.get("num_key_value_heads", heads)}
    return whole(of.get(inner.partition(".")[0], 0)) if family.interleaved else 0
