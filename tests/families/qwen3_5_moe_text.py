"""Tiny checkpoints of Qwen3.5's text model with experts."""

from families.qwen3_5_text import SIZES as DENSE
from variants import Variant

SIZES = DENSE | {
    "num_hidden_layers": 3,
    "full_attention_interval": 2,
    "linear_key_head_dim": 32,
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
    "shared_expert_intermediate_size": 64,
}

VARIANTS = {
    "qwen3_5_moe_text": Variant("qwen3_5_moe_text", sizes=SIZES),
    "qwen3_5_moe_text-tied": Variant(
        "qwen3_5_moe_text", {"num_hidden_layers": 2, "tie_word_embeddings": True, "num_experts_per_tok": 1}, sizes=SIZES
    ),
}
