"""GLM-OCR's text model (Zhipu 2026): GLM-4.1V's without biases, and heads of a width of their own."""

from edgepress.exporter.source.towers import Tower
from edgepress.exporter.source.towers.glm4v_text import head_dim

TOWER = Tower(
    model_type="glm_ocr_text",
    family="glm4",
    defaults={  # transformers' GlmOcrTextConfig's
        "vocab_size": 59392,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
    },
    share=1.0,
    told=lambda config: {**({} if config.get("head_dim") else head_dim(config)), "attention_bias": False},
)
