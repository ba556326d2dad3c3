"""Android's Neural Networks API through onnxruntime's NNAPI provider."""

from edgepress.targets import Target

TARGET = Target(
    name="android-nnapi",
    description="Android's NNAPI (deprecated by Android 15), whatever accelerator the phone's driver has",
    provider="NnapiExecutionProvider",
    checked="table",
    source="nnapi_supported_ops.md in onnxruntime's wheel",
    qdq=("a8w8",),
)
