"""x86-64 CPUs through onnxruntime's CPU provider."""

from edgepress.targets import Target

TARGET = Target(
    name="x86-cpu",
    description="x86-64 CPU, onnxruntime's CPU provider (MLAS kernels)",
    provider="CPUExecutionProvider",
    checked="asked",
    source="onnxruntime's kernel registry",
    package="onnxruntime",
    qdq=("a8w8",),
    faster=frozenset({"int8 weights", "one rounding", "norms apart"}),
)
