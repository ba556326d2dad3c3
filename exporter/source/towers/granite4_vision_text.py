"""Granite Vision 4's text model (IBM 2026): Granite. What the vision tower adds to layers is added at images only."""

from edgepress.exporter.source.towers import Tower

TOWER = Tower(model_type="granite4_vision_text", family="granite")
