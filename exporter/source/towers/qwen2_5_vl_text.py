"""Qwen2.5-VL's text model (Bai et al. 2025): Qwen2 with positions in three axes."""

from edgepress.exporter.source.towers import Tower
from edgepress.exporter.source.towers.qwen2_vl_text import DEFAULTS

TOWER = Tower(model_type="qwen2_5_vl_text", family="qwen2", defaults=DEFAULTS, theta=1e6, flat=("qwen2_5_vl",))
