"""Intel NPUs (Core Ultra) through onnxruntime's OpenVINO provider."""

from edgepress.targets import Target

TARGET = Target(
    name="openvino-npu",
    description="Intel NPU, onnxruntime's OpenVINO provider; its compiler is in no wheel",
    provider="OpenVINOExecutionProvider",
    checked="table",
    source="onnxruntime's documentation of the OpenVINO provider",
)
