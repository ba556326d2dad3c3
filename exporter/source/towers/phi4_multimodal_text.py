"""Phi-4-multimodal's text model (Microsoft 2025): Phi-4-mini.

Its adapters for images and sound lie beside each matrix in the published checkpoint (``phi4mm``), and are off for text.
"""

from edgepress.exporter.source.towers import Tower

TOWER = Tower(
    model_type="phi4_multimodal_text",
    family="phi3",
    defaults={  # transformers' Phi4MultimodalConfig's
        "vocab_size": 200064,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "eos_token_id": [199999, 200020],
    },
    flat=("phi4_multimodal", "phi4mm"),
)
