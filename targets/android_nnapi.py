"""Android's Neural Networks API through onnxruntime's NNAPI provider."""

from edgepress.targets import Table, Target

TARGET = Target(
    name="android-nnapi",
    description="Android's NNAPI (deprecated by Android 15), whatever accelerator the phone's driver has",
    provider="NnapiExecutionProvider",
    checked="table",
    source="nnapi_supported_ops.md and the provider's checks of types, ranks and shapes",
    package="onnxruntime",
    qdq=("a8w8",),
    table=Table(
        file="nnapi_supported_ops.md",
        types=frozenset({"float", "int32", "uint8", "int8", "bool"}),
        quantized=frozenset({"uint8", "int8"}),  # ANEURALNETWORKS_TENSOR_QUANT8_* have 8 bits
        max_rank=4,
        external=False,
        trivial=frozenset({"Reshape", "Flatten", "Identity", "Squeeze", "Unsqueeze"}),
    ),
)
