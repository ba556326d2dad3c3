"""Qwen2.5-Omni's thinker (Xu et al. 2025): Qwen2 with positions in three axes."""

from edgepress.exporter.source.towers import Tower

TOWER = Tower(
    model_type="qwen2_5_omni_text",
    family="qwen2",
    defaults={  # transformers' Qwen2_5OmniTextConfig's
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
    },
    theta=1e6,
    tied_by_the_whole=True,
)
