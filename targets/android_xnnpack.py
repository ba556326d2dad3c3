"""Android phones' CPUs through onnxruntime's XNNPACK provider."""

from edgepress.targets import Table, Target

_POOL = "Only 2D Pool is supported."
_WEIGHTS = "Weights and bias should be constant."
_ONE_TYPE = "Quantized activations have the type of the weights."
_QUANTIZED = "All quantization scales and zero points should be constant."

TARGET = Target(
    name="android-xnnpack",
    description="Android phone's CPU, onnxruntime's XNNPACK provider; the CPU provider takes the rest",
    provider="XnnpackExecutionProvider",
    checked="table",
    source="onnxruntime's page on the XNNPACK provider (Supported ops), and its checks of types and fused activations "
    "(detail/utils.cc, node_support_checker.cc), read in November 2026",
    qdq=("a8w8",),
    form="xnnpack",
    table=Table(
        operators={
            "ai.onnx:AveragePool": _POOL,
            "ai.onnx:Conv": f"Only 2D Conv is supported.<br/>{_WEIGHTS}<br/>{_ONE_TYPE}",
            "ai.onnx:ConvTranspose": f"Only 2D ConvTranspose is supported.<br/>{_WEIGHTS}<br/>{_ONE_TYPE}",
            "ai.onnx:Gemm": "Only 2D Op is supported.",
            "ai.onnx:MatMul": "Only 2D Op is supported.",
            "ai.onnx:MaxPool": _POOL,
            "ai.onnx:QLinearConv": f"Only 2D Conv is supported.<br/>{_WEIGHTS}<br/>{_QUANTIZED}",
            "ai.onnx:Resize": "Only 2D Resize is supported.<br/>`mode` == `linear`.",
            "ai.onnx:Softmax": "Axis must be the last one from opset 13 on.",
            "com.microsoft:QLinearAveragePool": f"{_POOL}<br/>{_QUANTIZED}",
            "com.microsoft:QLinearConvTranspose": _QUANTIZED,
            "com.microsoft:QLinearSoftmax": _QUANTIZED,
        },
        fused={op: frozenset({"Conv", "MaxPool", "AveragePool"}) for op in ("Clip", "Relu")},
        integers=frozenset({"AveragePool", "Conv", "ConvTranspose", "MaxPool", "Resize", "Softmax"}),
        types=frozenset({"float", "float16", "uint8", "int8"}),
        quantized=frozenset({"uint8", "int8"}),
        max_rank=4,
        dynamic=True,
        subgraphs=True,
    ),
)
