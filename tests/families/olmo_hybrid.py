"""Tiny checkpoints of OLMo Hybrid."""

from variants import SMALL, Variant

# transformers 5.24 writes the convolution in thirds, whatever the sizes of q, k and v: equal ones are right
SIZES = SMALL | {"num_hidden_layers": 4, "linear_key_head_dim": 48, "linear_value_head_dim": 48}

VARIANTS = {
    "olmo_hybrid": Variant(  # no rotary embedding, as published
        "olmo_hybrid",
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": None},
            "num_hidden_layers": 3,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        },
        sizes=SIZES,
    ),
    "olmo_hybrid-rope-biases": Variant(
        "olmo_hybrid",
        {
            "num_hidden_layers": 2,
            "attention_bias": True,
            "linear_allow_neg_eigval": False,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 8,
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-3,
        },
        sizes=SIZES,
    ),
}
