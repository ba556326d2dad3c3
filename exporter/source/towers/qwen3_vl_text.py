"""Qwen3-VL's text model (Qwen Team 2025): Qwen3 with positions in three axes, interleaved.

What the vision tower adds to the first layers (DeepStack) is added at images only.
"""

from edgepress.exporter.source.towers import Tower

TOWER = Tower(
    model_type="qwen3_vl_text", family="qwen3", defaults={"max_position_embeddings": 128_000}, theta=500_000.0
)
