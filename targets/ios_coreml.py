"""Apple devices through onnxruntime's CoreML provider."""

from edgepress.targets import Table, Target

TARGET = Target(
    name="ios-coreml",
    description="Apple's CoreML (CPU, GPU, Neural Engine), as an ML Program",
    provider="CoreMLExecutionProvider",
    checked="table",
    source="coreml_supported_mlprogram_ops.md, coreml_supported_neuralnetwork_ops.md",
    package="onnxruntime",
    form="coreml",
    table=Table(
        file="coreml_supported_mlprogram_ops.md",
        other="coreml_supported_neuralnetwork_ops.md",
        other_name="ModelFormat=NeuralNetwork",
        types=frozenset({"float", "float16", "int32", "int64", "bool"}),
        max_rank=5,
        dynamic=True,
    ),
)
