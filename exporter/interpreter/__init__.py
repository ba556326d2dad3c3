"""Any float ONNX graph computed in torch, so that gradients reach its weights and whatever stands in for them.

:class:`~.network.Network` runs the whole graph, or the part of it between values that are given and values that are
wanted. ``operators/<family>.py`` say how operators are computed, one function each.

onnx's ReferenceEvaluator is numpy, without gradients. onnx2torch 1.5.15 (2024) makes a torch module of a file; it knows
no recurrent layers, no If, no RMSNormalization, Gelu or Attention, none of onnxruntime's own operators and no
QuantizeLinear, which is what training through the rounding that ships needs.
"""
