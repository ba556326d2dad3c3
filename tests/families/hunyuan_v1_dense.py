"""Tiny checkpoints of Hunyuan."""

from variants import Variant, version_4

_SCALING = {
    "type": "dynamic",
    "alpha": 1000.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}

VARIANTS = {
    "hunyuan_v1_dense": Variant(
        "hunyuan_v1_dense",
        {
            "head_dim": 32,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0, "rope_theta": 10_000.0},
        },
        version_4(rope_theta=10_000.0, rope_scaling=_SCALING, use_qk_norm=True, use_cla=False),
    ),
    "hunyuan_v1_dense-biases": Variant("hunyuan_v1_dense", {"head_dim": 24, "attention_bias": True}),
}
METHODS = ("hunyuan_v1_dense",)
