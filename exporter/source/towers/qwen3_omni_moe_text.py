"""Qwen3-Omni's thinker (Xu et al. 2025): Qwen3 with experts and positions in three axes, interleaved."""

from edgepress.exporter.source.towers import Tower

TOWER = Tower(
    model_type="qwen3_omni_moe_text",
    family="qwen3_moe",
    defaults={  # transformers' Qwen3OmniMoeTextConfig's
        "vocab_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "norm_topk_prob": True,
    },
    theta=1e6,
    tied_by_the_whole=True,
)
