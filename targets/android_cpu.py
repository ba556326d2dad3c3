"""Android phones' CPUs through onnxruntime's CPU provider."""

from edgepress.targets import Target

TARGET = Target(
    name="android-cpu",
    description="Android phone's CPU, onnxruntime's CPU provider, model in ORT format",
    provider="CPUExecutionProvider",
    checked="asked",
    source="onnxruntime's kernel registry",
    package="onnxruntime",
    form="ort-format",
    float16=True,
    faster=frozenset({"int8 weights"}),
    qdq=("a8w8",),
)
