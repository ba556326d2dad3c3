"""Tiny checkpoints of ERNIE 4.5 with experts."""

from variants import Variant

EXPERTS = {"moe_num_experts": 6, "moe_k": 2, "moe_intermediate_size": 32}
VARIANTS = {
    "ernie4_5_moe": Variant("ernie4_5_moe", EXPERTS),
    "ernie4_5_moe-every-other": Variant(
        "ernie4_5_moe",
        {
            **EXPERTS,
            "moe_num_shared_experts": 0,
            "moe_layer_start_index": 0,
            "moe_layer_interval": 2,
            "tie_word_embeddings": False,
        },
    ),
}
METHODS = ()
