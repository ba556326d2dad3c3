"""Where each node of a model would run on a target, and why not on its accelerator.

Read on a build machine only (it needs onnx): files.py reads any ONNX file safely, registry.py asks onnxruntime's kernel
registry, tables.py reads operator tables, asked.py asks a provider's own compiler, cliffs.py knows slow kernels.
"""

from edgepress.targets.legality.report import Cause, Placement, Report

__all__ = ["Cause", "Placement", "Report"]
