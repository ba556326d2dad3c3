"""Tiny checkpoints of Falcon Mamba."""

from families.mamba import SIZES
from variants import Variant

VARIANTS = {
    "falcon_mamba": Variant("falcon_mamba", sizes=SIZES),
    "falcon_mamba-epsilon": Variant(
        "falcon_mamba", {"mixer_rms_eps": 0.01, "tie_word_embeddings": False, "use_bias": True}, sizes=SIZES
    ),
}
REFUSES = ("heads", "hidden", "mlp_width")  # no attention, no MLP
