"""Browsers, through onnxruntime-web's WebAssembly CPU provider."""

from edgepress.targets import Target

TARGET = Target(
    name="wasm",
    description="browser, onnxruntime-web's CPU provider compiled to WebAssembly with SIMD",
    provider="CPUExecutionProvider",
    checked="asked",
    source="onnxruntime's kernel registry, of the native build: the web build compiles the same CPU kernels",
    qdq=("a8w8",),
)
