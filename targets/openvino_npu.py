"""Intel NPUs (Core Ultra) through onnxruntime's OpenVINO provider."""

from edgepress.targets import Table, Target

_ONNX = (
    "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift Cast "
    "CastLike Ceil Celu Clip Compress Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh "
    "CumSum DepthToSpace DequantizeLinear Div Dropout Elu Einsum Equal Erf Exp Expand EyeLike Flatten Floor "
    "Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual "
    "GridSample GRU Hardmax Identity If InstanceNormalization HardSigmoid HardSwish LayerNormalization LeakyRelu "
    "Less LessOrEqual Log LogSoftmax Loop LpNormalization LRN LSTM MatMul MatMulInteger Max MaxPool Mean "
    "MeanVarianceNormalization Min Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or Pad Pow PRelu "
    "QLinearMatMul QuantizeLinear RNN RandomNormalLike RandomNormal Range Reciprocal ReduceL1 ReduceL2 "
    "ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Resize "
    "Reshape ReverseSequence RoiAlign Round Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin "
    "Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu "
    "Tile Transpose Trilu TopK Upsample Unsqueeze Where Xor"
)
_MICROSOFT = (
    "Attention BiasGelu DynamicQuantizeMatMul EmbedLayerNormalization FusedConv FusedGemm FusedMatMul Gelu "
    "MatMulNBits QuickGelu SkipLayerNormalization SkipSimplifiedLayerNormalization"
)

TARGET = Target(
    name="openvino-npu",
    description="Intel NPU, onnxruntime's OpenVINO provider; its compiler is in no wheel",
    provider="OpenVINOExecutionProvider",
    checked="table",
    source="the provider's own list of operators and types (OpenVINO 2025.1); the compiler may still refuse",
    table=Table(
        operators={
            **{f"ai.onnx:{op}": "" for op in _ONNX.split()},
            **{f"com.microsoft:{op}": "" for op in _MICROSOFT.split()},
        },
        types=frozenset(
            {"bool", "float", "float16", "uint8", "int8", "uint16", "int16", "int32", "int64", "int4", "uint4"}
        ),
        quantized=frozenset({"uint8", "int8", "uint16", "int16", "int4", "uint4"}),
    ),
)
