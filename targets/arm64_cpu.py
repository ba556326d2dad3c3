"""64-bit ARM CPUs (phones, boards) through onnxruntime's CPU provider."""

from edgepress.targets import Target

TARGET = Target(
    name="arm64-cpu",
    description="64-bit ARM CPU, onnxruntime's CPU provider (MLAS and KleidiAI kernels)",
    provider="CPUExecutionProvider",
    checked="asked",
    source="onnxruntime's kernel registry",
    package="onnxruntime",
    qdq=("a8w8",),
    float16=True,
    faster=frozenset({"int8 weights"}),
)
