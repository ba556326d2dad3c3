"""Browsers, through onnxruntime-web's WebAssembly CPU provider."""

from edgepress.targets import Target

TARGET = Target(
    name="wasm",
    description="browser, onnxruntime-web's CPU provider compiled to WebAssembly with SIMD",
    provider="CPUExecutionProvider",
    checked="asked",
    # onnxruntime-web 1.30.0 in Node made the same sessions of ONNX's own node tests as the native build, but for models
    # whose own inputs or outputs are bfloat16, float8 or 2-bit: its JavaScript interface has no such tensors.
    source="onnxruntime's kernel registry, of the native build: the web build compiles the same CPU kernels",
    package="onnxruntime",
    qdq=("a8w8",),
)
