"""PaddleOCR-VL's text model (Baidu 2025): ERNIE 4.5 with positions in three axes, and pairs by halves, as Llama."""

from edgepress.exporter.source.towers import Tower

TOWER = Tower(
    model_type="paddleocr_vl_text",
    family="llama",
    defaults={  # transformers' Ernie4_5Config's
        "vocab_size": 103424,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 18,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    },
    theta=500_000.0,
    renamed={"use_bias": ("attention_bias", "mlp_bias")},
    flat=("paddleocr_vl",),
)
