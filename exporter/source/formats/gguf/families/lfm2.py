"""LFM2 and LFM2.5: layers without keys and values are convolutions."""

from collections.abc import Mapping

from edgepress.errors import InputError
from edgepress.exporter.source.formats.gguf.families import Family, Values, whole


def _layers(values: Mapping[str, object], config: Values) -> Values:
    heads = values.get("attention.head_count_kv")
    if not isinstance(heads, list) or len(heads) != config["num_hidden_layers"]:
        layers = config["num_hidden_layers"]
        raise InputError(
            f"lfm2.attention.head_count_kv = {str(heads)[:80]}: it must have a number for each of {layers} layers; "
            "export the original checkpoint"
        )
    return {
        "layer_types": ["full_attention" if count else "conv" for count in heads],
        "num_key_value_heads": max(map(whole, heads)),
        "block_auto_adjust_ff_dim": False,
    }


FAMILY = Family(
    "lfm2",
    "Lfm2ForCausalLM",
    names={
        "attn_norm": "operator_norm",
        "ffn_norm": "ffn_norm",
        "attn_output": "self_attn.out_proj",
        "attn_q_norm": "self_attn.q_layernorm",
        "attn_k_norm": "self_attn.k_layernorm",
        "ffn_gate": "feed_forward.w1",
        "ffn_down": "feed_forward.w2",
        "ffn_up": "feed_forward.w3",
        "shortconv.in_proj": "conv.in_proj",
        "shortconv.out_proj": "conv.out_proj",
        "shortconv.conv": "conv.conv",
    },
    outer={"token_embd_norm": "model.embedding_norm"},
    keys={"attention.layer_norm_rms_epsilon": "norm_eps", "shortconv.l_cache": "conv_L_cache"},
    kernels=("shortconv.conv",),
    more=_layers,
)
