"""Olive's passes on a checkpoint or an ONNX file, as its examples for CPUs order them; nothing of ours is imported.

Run by the Python of ``pip install olive-ai requests onnxruntime torch==2.13.0``::

    python olive_quantize.py dynamic CHECKPOINT OUT.onnx
    python olive_quantize.py static FLOAT.onnx OUT.onnx SAMPLES.npz

A checkpoint is converted, its attention fused and its products quantized at each call; a file is tidied and quantized
by ranges of SAMPLES, which has an array for each input, samples by its first axis.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

Item = tuple[dict[str, np.ndarray], int]


class Samples:
    """The samples of a file, each with a label that nothing reads: a dataset by its methods."""

    def __init__(self, path: str) -> None:
        with np.load(path) as arrays:
            self._feeds = [dict(zip(arrays, values, strict=True)) for values in zip(*arrays.values(), strict=True)]

    def __len__(self) -> int:
        return len(self._feeds)

    def __getitem__(self, index: int) -> Item:
        return self._feeds[index], 0

    def __iter__(self) -> Iterator[Item]:
        return ((feed, 0) for feed in self._feeds)


def config(how: str, model: str, samples: list[str]) -> dict[str, object]:
    """What Olive is asked to do."""
    if how == "dynamic":
        entry = {"type": "HfModel", "model_path": model, "task": "feature-extraction"}
        passes = {
            "conversion": {"type": "OnnxConversion", "use_dynamo_exporter": True},
            "fusion": {"type": "OrtTransformersOptimization", "model_type": "bert"},
            "integers": {"type": "OnnxDynamicQuantization", "per_channel": True},
        }
        return {"input_model": entry, "passes": passes}
    data = {"name": "seen", "load_dataset_config": {"type": "seen_samples", "params": {"path": samples[0]}}}
    data |= {
        "pre_process_data_config": {"type": "skip_pre_process"},
        "post_process_data_config": {"type": "skip_post_process"},
    }
    data |= {"dataloader_config": {"type": "no_auto_batch_dataloader"}}
    passes = {
        "tidying": {"type": "OnnxPeepholeOptimizer"},
        "integers": {
            "type": "OnnxStaticQuantization",
            "quant_format": "QDQ",
            "per_channel": True,
            "data_config": "seen",
        },
    }
    return {"input_model": {"type": "ONNXModel", "model_path": model}, "data_configs": [data], "passes": passes}


def main() -> None:
    """Write OUT."""
    os.environ |= {"ORT_DISABLE_TELEMETRY": "1", "OLIVE_DISABLE_TELEMETRY": "1"}  # before they are loaded
    from olive.data.registry import Registry
    from olive.workflows import run

    Registry.register_dataset("seen_samples")(Samples)
    how, model, out, *samples = sys.argv[1:]
    with TemporaryDirectory() as work:
        where = {"output_dir": f"{work}/out", "cache_dir": f"{work}/cache"}
        found = run(config(how, model, samples) | where)
        made = Path(found.get_best_candidate().model_path)
        shutil.copyfile(made, out)


if __name__ == "__main__":
    main()
