"""AMD NPUs (Ryzen AI) through onnxruntime's Vitis AI provider."""

from edgepress.targets import Table, Target

# Forms as AMD names them: BF16 is a float model that the compiler converts, A16W8 and A8W8 are QDQ with 16- or 8-bit
# activations, XINT8 is 8-bit QDQ whose scales are powers of two.
_FORMS = {
    "BF16, A16W8, A8W8, XINT8": (
        "Add AveragePool BatchNormalization Concat Constant ConstantOfShape Conv DepthToSpace Div Expand Flatten "
        "Gemm GlobalAveragePool Identity InstanceNormalization MatMul Max MaxPool Min Mul Pad Reciprocal "
        "ReduceMax Reshape Shape Slice Sqrt Squeeze Sub Transpose Unsqueeze Upsample"
    ),
    "BF16, XINT8": (
        "Abs And ArgMax ArgMin BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Ceil CumSum Equal Erf "
        "Floor Greater Less Log Neg Or Pow Round Sign Tile"
    ),
    "XINT8": ("Celu GreaterOrEqual LayerNormalization LessOrEqual Mish Range STFT Shrink Softsign ThresholdedRelu"),
    "A16W8, A8W8, XINT8": ("Clip DequantizeLinear Gelu GlobalMaxPool GroupNormalization LeakyRelu Relu Softmax"),
    "BF16, A16W8, A8W8": "ConvTranspose Sigmoid Sin",
    "A16W8, A8W8": "Cos QLinearConv QuantizeLinear",
    "BF16": "Einsum Gather GridSample LSTM Mod Not ScatterND Size Xor",
    "A16W8, XINT8": "Elu TopK",
    "BF16, A16W8": "Exp GatherElements Split",
    "A8W8": "HardSigmoid QLinearMatMul",
    "A8W8, XINT8": "HardSwish",
    "BF16, A8W8, XINT8": "ReduceMean ReduceMin ReduceSum Resize",
    "BF16, A16W8, XINT8": "Tanh Where",
}

TARGET = Target(
    name="vitisai-npu",
    description="AMD Ryzen AI NPU, onnxruntime's Vitis AI provider; its compiler is in no public wheel",
    provider="VitisAIExecutionProvider",
    checked="table",
    source="AMD's list of supported operators, Ryzen AI 1.5.0, July 2025",
    table=Table(
        operators={f"ai.onnx:{op}": f"Forms: {forms}" for forms, ops in _FORMS.items() for op in ops.split()},
        types=frozenset({"float", "float16", "bfloat16", "uint8", "int8", "uint16", "int16", "int32", "int64", "bool"}),
        quantized=frozenset({"uint8", "int8", "uint16", "int16"}),
    ),
)
