"""What a tiny checkpoint is: its family, its config, what is changed in its files; see tiny_models.py."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

VOCABULARY = 320
CONTEXT = 128

SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

Patch = Callable[[dict[str, object]], dict[str, object]]


@dataclass(frozen=True)
class Variant:
    """One tiny checkpoint: its family, the config that differs from the family's tiny one, and changes to its files."""

    model_type: str
    config: Mapping[str, object] = field(default_factory=dict)
    patch: Patch | None = None
    drop_prefix: str = ""  # removed from the names of the saved tensors
    dtype: torch.dtype = torch.float32
    gains: Mapping[str, float] = field(default_factory=dict)  # what drawn parameters of such names are multiplied by
    attention: str = "eager"  # the implementation of transformers that is held to be right
    sizes: Mapping[str, object] = field(default_factory=lambda: SMALL)  # what is not in config


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
LONG_FROM = 48  # longrope: prompts longer than this use the long factors


def longrope(pairs: int) -> dict[str, object]:
    """Factors for so many pairs of dimensions, all different."""
    return {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0 + 0.05 * pair for pair in range(pairs)],
        "long_factor": [1.5 + 0.5 * pair for pair in range(pairs)],
        "original_max_position_embeddings": LONG_FROM,
    }


def version_4(**changes: object) -> Patch:
    """Write the config as transformers 4 did: rope keys at the top level, no layer_types."""

    def patch(config: dict[str, object]) -> dict[str, object]:
        kept = {key: value for key, value in config.items() if key not in ("rope_parameters", "layer_types", "dtype")}
        return kept | {"torch_dtype": "float32", "transformers_version": "4.49.0"} | changes

    return patch
