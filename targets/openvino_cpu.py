"""Intel CPUs through onnxruntime's OpenVINO provider."""

from edgepress.targets import Target

TARGET = Target(
    name="openvino-cpu",
    description="Intel CPU, onnxruntime's OpenVINO provider",
    provider="OpenVINOExecutionProvider",
    checked="asked",
    source="OpenVINO's CPU plugin",
    package="onnxruntime-ep-openvino",
    qdq=("a8w8",),
)
