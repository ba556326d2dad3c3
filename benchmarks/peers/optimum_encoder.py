"""Optimum's ONNX export of a sentence encoder and onnxruntime's dynamic int8 of it, in an environment of its own.

As optimum_apart.py: run by the Python of ``pip install optimum-onnx accelerate torch onnxruntime``, without us::

    python optimum_encoder.py CHECKPOINT OUT
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path


def main() -> None:
    """Write OUT/float32/model.onnx and OUT/int8/model_quantized.onnx; print seconds and versions."""
    from optimum.exporters.onnx import main_export
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    checkpoint, out = sys.argv[1], Path(sys.argv[2])
    start = time.perf_counter()
    main_export(checkpoint, str(out / "float32"), task="feature-extraction", do_validation=False)
    exported = time.perf_counter()
    quantizer = ORTQuantizer.from_pretrained(out / "float32", file_name="model.onnx")
    how = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    quantizer.quantize(save_dir=out / "int8", quantization_config=how)
    versions = {package: version(package) for package in ("optimum-onnx", "transformers", "onnxruntime", "torch")}
    seconds = {"export_s": exported - start, "quantize_s": time.perf_counter() - exported}
    print(json.dumps({"versions": versions, **seconds}))


if __name__ == "__main__":
    main()
