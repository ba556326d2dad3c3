"""Tiny checkpoints of VaultGemma."""

from variants import Variant

VARIANTS = {
    "vaultgemma": Variant(
        "vaultgemma",
        {"head_dim": 32, "sliding_window": 16, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "vaultgemma-full": Variant(
        "vaultgemma", {"head_dim": 16, "layer_types": ["full_attention"] * 3, "attn_logit_softcapping": None}
    ),
}
METHODS = ()
