"""Gemma 4 12B's text model (Google 2026), whose towers are one with it: Gemma 4 without inputs by layer."""

from edgepress.exporter.source.towers import Tower

TOWER = Tower(
    model_type="gemma4_unified_text",
    family="gemma4_text",
    defaults={"sliding_window": 1024, "max_position_embeddings": 262_144},  # transformers' Gemma4UnifiedTextConfig's
    told=lambda _: {"hidden_size_per_layer_input": 0},
)
