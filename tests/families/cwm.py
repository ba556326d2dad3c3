"""Tiny checkpoints of CWM."""

from variants import LLAMA3, Variant

VARIANTS = {
    "cwm": Variant("cwm", {"head_dim": 16, "sliding_window": 16, "num_hidden_layers": 4}),
    "cwm-biases": Variant(
        "cwm",
        {
            "head_dim": 16,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "mlp_bias": True,
            "rope_parameters": LLAMA3,
        },
    ),
}
METHODS = ()
