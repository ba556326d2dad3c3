"""Graphs with every shape fixed, as compilers of accelerators take them: a decoder's, and an encoder-decoder's."""

from edgepress.exporter.graph.static.decoder import (
    AFTER,
    DATA_FILE,
    DECODE_FILE,
    METADATA,
    PREFILL_FILE,
    SEQUENCE,
    Shapes,
    static_decoder,
    write_static,
)

__all__ = [
    "AFTER",
    "DATA_FILE",
    "DECODE_FILE",
    "METADATA",
    "PREFILL_FILE",
    "SEQUENCE",
    "Shapes",
    "static_decoder",
    "write_static",
]
