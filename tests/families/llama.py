"""Tiny checkpoints of Llama 1 to 3.2."""

import torch
from variants import LINEAR, LLAMA3, YARN, Variant, longrope, version_4

VARIANTS = {
    "llama": Variant("llama"),
    "llama-tied-llama3": Variant("llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}),
    "llama-biases-head_dim": Variant(
        "llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 24, "num_key_value_heads": 1}
    ),
    "llama-linear-version4": Variant(
        "llama",
        {"rope_parameters": LINEAR, "num_key_value_heads": 4},
        version_4(rope_theta=10_000.0, rope_scaling={"type": "linear", "factor": 4.0}, pretraining_tp=1),
    ),
    "llama-yarn-mscale": Variant(
        "llama", {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 0.3, "truncate": False}}
    ),
    "llama-longrope": Variant("llama", {"rope_parameters": longrope(8)}),
    "llama-bfloat16-gelu": Variant("llama", {"hidden_act": "gelu"}, dtype=torch.bfloat16),
}
METHODS = ("llama", "llama-tied-llama3", "llama-biases-head_dim", "llama-bfloat16-gelu")
