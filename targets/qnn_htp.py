"""Qualcomm's Hexagon tensor processor (HTP) through onnxruntime's QNN provider."""

from edgepress.targets import Target

TARGET = Target(
    name="qnn-htp",
    description="Qualcomm Hexagon NPU (HTP), onnxruntime's QNN provider",
    provider="QNNExecutionProvider",
    checked="asked",
    source="the HTP compiler in the wheel onnxruntime-qnn",
)
