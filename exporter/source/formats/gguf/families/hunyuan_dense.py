"""Hunyuan, dense: the base of its rope has alpha in it already."""

from edgepress.exporter.source.formats.gguf.families import Family

FAMILY = Family(
    "hunyuan_v1_dense",
    "HunYuanDenseV1ForCausalLM",
    head_dim=True,
    names={"attn_q_norm": "self_attn.query_layernorm", "attn_k_norm": "self_attn.key_layernorm"},
)
