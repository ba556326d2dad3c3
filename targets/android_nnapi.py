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
    form="nnapi",
    table=Table(
        file="nnapi_supported_ops.md",
        more={
            "ai.onnx:Gemm": "Quantized weights have one scale.",
            "ai.onnx:MatMul": "Quantized weights have one scale.<br/>Products of matrices, or of batches in floats.",
        },
        types=frozenset({"float", "int32", "uint8", "int8", "bool"}),
        quantized=frozenset({"uint8", "int8"}),  # ANEURALNETWORKS_TENSOR_QUANT8_* have 8 bits
        integers=frozenset({"Add", "AveragePool", "Concat", "Conv", "Gemm", "MatMul", "Mul", "Reshape"})
        | {"Resize", "Softmax", "Transpose"},  # GetQuantizedOpType in the provider's helper.cc
        max_rank=4,
        external=False,
        trivial=frozenset({"Reshape", "Flatten", "Identity", "Squeeze", "Unsqueeze"}),
    ),
)
