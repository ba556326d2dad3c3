"""Tiny checkpoints of Gemma 3n's text model."""

from variants import Variant, version_4

_TYPES = ["sliding_attention", "full_attention"]
_SMALL = {
    "head_dim": 16,
    "sliding_window": 16,
    "hidden_size_per_layer_input": 32,
    "vocab_size_per_layer_input": 300,
    "num_hidden_layers": 4,
    "layer_types": _TYPES * 2,
    "num_kv_shared_layers": 2,
    "laurel_rank": 32,
    "activation_sparsity_pattern": [0.95, 0.0, 0.6, 0.9],
}
_GAINS = {
    "q_norm": 0.3,
    "modality_router": 20.0,
    "prediction_coefs": 0.3,
}  # scores are not divided by sqrt(head_dim); tanh is to bend

VARIANTS = {
    "gemma3n_text": Variant(
        "gemma3n_text",
        {**_SMALL, "final_logit_softcapping": 3.0, "intermediate_size": [96, 64, 96, 64]},
        version_4(rope_theta=1e6, rope_local_base_freq=1e4, rope_scaling=None, layer_types=_TYPES * 2),
        gains=_GAINS,
    ),
    "gemma3n_text-two-copies": Variant(
        "gemma3n_text",
        {
            **_SMALL,
            "vocab_size_per_layer_input": 330,
            "altup_num_inputs": 2,
            "altup_active_idx": 1,
            "num_kv_shared_layers": 0,
            "num_hidden_layers": 2,
            "layer_types": _TYPES,
            "activation_sparsity_pattern": None,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
            },
        },
        gains=_GAINS,
    ),
}
METHODS = ()
REFUSES = ("depth", "heads", "hidden", "mlp_width", "vocabulary")  # copies of the stream; inputs by layer
