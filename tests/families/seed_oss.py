"""Tiny checkpoints of Seed-OSS."""

from variants import Variant

VARIANTS = {
    "seed_oss": Variant("seed_oss", {"head_dim": 24}),
    "seed_oss-biases": Variant(
        "seed_oss", {"head_dim": 32, "attention_bias": False, "attention_out_bias": True, "mlp_bias": True}
    ),
}
METHODS = ()
