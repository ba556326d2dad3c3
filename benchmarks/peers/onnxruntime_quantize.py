"""onnxruntime's own quantization of a float ONNX file, as its documentation shows it; nothing of ours is imported.

::

    python onnxruntime_quantize.py dynamic FLOAT OUT
    python onnxruntime_quantize.py static|qnn FLOAT OUT INPUTS.npz

``static`` is QDQ with uint8 activations and int8 weights by channel, after preprocessing (which folds batch norms);
``qnn`` the preset for Qualcomm's provider. Opsets below 13, which cannot hold scales by channel, are converted by onnx
first, as its documentation advises. INPUTS has an array for each input, samples by its first axis.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np


class Samples:
    """The samples of a file, one after the other: a CalibrationDataReader by its methods."""

    def __init__(self, path: str) -> None:
        self._arrays = dict(np.load(path))
        self.rewind()

    def rewind(self) -> None:
        """Begin again."""
        self._feeds: Iterator[dict[str, np.ndarray]] = (
            dict(zip(self._arrays, values, strict=True)) for values in zip(*self._arrays.values(), strict=True)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next sample, None after the last."""
        return next(self._feeds, None)


def main() -> None:
    """Write OUT."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before it is loaded
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize, quantize_dynamic, quantize_static
    from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config, qnn_preprocess_model
    from onnxruntime.quantization.shape_inference import quant_pre_process

    how = sys.argv[1]
    model, out, *inputs = (str(Path(path).resolve()) for path in sys.argv[2:])
    os.chdir(Path(out).parent)  # where its preprocessing leaves files of its own
    prepared = str(Path(out).with_suffix(".prepared.onnx"))
    float_model = onnx.load(model)
    if next(one.version for one in float_model.opset_import if not one.domain) < 13:
        model = str(Path(out).with_suffix(".converted.onnx"))
        onnx.save(onnx.version_converter.convert_version(float_model, 17), model)
    if how == "dynamic":
        quantize_dynamic(model, out, per_channel=True, weight_type=QuantType.QInt8)
    elif how == "static":
        quant_pre_process(model, prepared, skip_symbolic_shape=True)  # which fails on optimum's graphs
        types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(prepared, out, Samples(inputs[0]), quant_format=QuantFormat.QDQ, per_channel=True, **types)
    else:
        model = prepared if qnn_preprocess_model(model, prepared) else model
        quantize(model, out, get_qnn_qdq_config(model, Samples(inputs[0])))


if __name__ == "__main__":
    main()
