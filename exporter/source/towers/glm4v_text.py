"""GLM-4.1V's and GLM-4.6V-Flash's text model (GLM-V Team 2025): GLM-4-0414 with positions in three axes."""

from collections.abc import Mapping

from edgepress.exporter.source.towers import Tower

DEFAULTS = {  # transformers' Glm4vTextConfig's
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
}


def head_dim(config: Mapping[str, object]) -> dict[str, object]:
    """The width of a head, which the family does not take from the others; {} where these are no sizes."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    return {"head_dim": hidden // heads} if isinstance(hidden, int) and isinstance(heads, int) and heads > 0 else {}


TOWER = Tower(
    model_type="glm4v_text",
    family="glm4",
    defaults=DEFAULTS,
    share=1.0,
    told=lambda config: {**head_dim(config), "attention_bias": True},
)
