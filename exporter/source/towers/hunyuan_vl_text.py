"""Hunyuan-OCR's text model (Tencent 2025): Hunyuan, dense, with positions in up to four axes."""

from edgepress.exporter.source.towers import Tower

TOWER = Tower(
    model_type="hunyuan_vl_text",
    family="hunyuan_v1_dense",
    defaults={"tie_word_embeddings": True},
    renamed={"attention_head_dim": ("head_dim",), "org_vocab_size": ("vocab_size",)},
    flat=("hunyuan_vl",),
)
