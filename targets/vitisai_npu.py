"""AMD NPUs (Ryzen AI) through onnxruntime's Vitis AI provider."""

from edgepress.targets import Target

TARGET = Target(
    name="vitisai-npu",
    description="AMD Ryzen AI NPU, onnxruntime's Vitis AI provider; its compiler is in no public wheel",
    provider="VitisAIExecutionProvider",
    checked="table",
    source="AMD's documentation of Ryzen AI's supported operators",
)
