"""ONNX graphs with fewer channels: what must go together (:mod:`.coupling`), and the graph without it (:mod:`.cut`)."""
