"""GLM-4.5V's and GLM-4.6V's text model (GLM-V Team 2025): GLM-4.5 with positions in three axes."""

from edgepress.exporter.source.towers import Tower

TOWER = Tower(
    model_type="glm4v_moe_text",
    family="glm4_moe",
    defaults={"vocab_size": 151424, "max_position_embeddings": 65536, "attention_bias": True},
)
