"""Granite Docling's text model (IBM 2026): Granite."""

from edgepress.exporter.source.towers import Tower

TOWER = Tower(
    model_type="granite_docling_text",
    family="granite",
    defaults={  # transformers' GraniteDoclingTextConfig's
        "vocab_size": 133800,
        "hidden_size": 1024,
        "intermediate_size": 2048,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "embedding_multiplier": 12.0,
        "logits_scaling": 4.0,
        "residual_multiplier": 0.263,
        "attention_multiplier": 0.015625,
    },
)
