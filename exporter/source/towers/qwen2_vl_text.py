"""Qwen2-VL's text model (Wang et al. 2024): Qwen2 with positions in three axes."""

from edgepress.exporter.source.towers import Tower

DEFAULTS = {  # transformers' Qwen2VLTextConfig's; Qwen2.5-VL's are the same
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "max_window_layers": 80,
}

TOWER = Tower(model_type="qwen2_vl_text", family="qwen2", defaults=DEFAULTS, theta=1e6, flat=("qwen2_vl",))
