"""Apple devices through onnxruntime's CoreML provider."""

from edgepress.targets import Target

TARGET = Target(
    name="ios-coreml",
    description="Apple's CoreML (CPU, GPU, Neural Engine), as an ML Program",
    provider="CoreMLExecutionProvider",
    checked="table",
    source="coreml_supported_mlprogram_ops.md and coreml_supported_neuralnetwork_ops.md in onnxruntime's wheel",
)
