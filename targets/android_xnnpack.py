"""Android phones' CPUs through onnxruntime's XNNPACK provider."""

from edgepress.targets import Target

TARGET = Target(
    name="android-xnnpack",
    description="Android phone's CPU, onnxruntime's XNNPACK provider; the CPU provider takes the rest",
    provider="XnnpackExecutionProvider",
    checked="table",
    source="onnxruntime's documentation of the XNNPACK provider",
    qdq=("a8w8",),
)
