"""Channels of convolutions removed from an ONNX graph, with everything in it that must go with them."""

from edgepress.exporter.methods.removing import removing

METHOD = removing("channels", "channels")
