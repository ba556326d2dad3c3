"""ExecuTorch: a torch module quantized by its XNNPACKQuantizer, lowered to XNNPACK, and run by its own runtime.

Run by the Python of ``pip install executorch torch==2.13.0``, without us::

    python executorch_apart.py make NAME WEIGHTS FORM OUT.pte [SAMPLES.npz]
    python executorch_apart.py serve OUT.pte THREADS PIPE

NAME and WEIGHTS are those of any_model_torch.py. FORM is ``fp32``, ``dynamic`` or ``static`` (symmetric int8, a scale a
channel), whose ranges come from SAMPLES: an array for each input, samples by its first axis.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from serving import serve

sys.path.append(str(Path(__file__).resolve().parents[1]))
from any_model_torch import Traceable, traceable


def make(model: Traceable, form: str, out: Path, samples: Path | None = None) -> None:
    """Write a file whose sizes are free where the module's are."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as integers
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    # Memory is planned for the sizes that are traced, so these are the largest.
    largest = tuple(
        part.new_ones([axes[axis].max if axis in axes else size for axis, size in enumerate(part.shape)])
        for part, axes in zip(model.example, model.axes, strict=True)
    )
    exported = torch.export.export(model.module, largest, dynamic_shapes=model.axes)
    if form != "fp32":
        how = integers.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=form == "dynamic")
        watched = prepare_pt2e(exported.module(), integers.XNNPACKQuantizer().set_global(how))
        if samples is None:
            watched(*largest)
        else:
            with np.load(samples) as arrays:
                for row in zip(*arrays.values(), strict=True):
                    watched(*map(torch.from_numpy, row))
        exported = torch.export.export(convert_pt2e(watched), largest, dynamic_shapes=model.axes)
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    out.write_bytes(lowered.to_executorch().buffer)


def opened(file: Path, threads: int) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """The model's answer to arrays in the order of its inputs."""
    import torch
    from executorch.extension.pybindings import portable_lib

    portable_lib._unsafe_reset_threadpool(threads)
    module = portable_lib._load_for_executorch(str(file))

    def answer(feed: dict[str, np.ndarray]) -> np.ndarray:
        return np.asarray(module.forward([torch.from_numpy(value) for value in feed.values()])[0].numpy())

    return answer


if __name__ == "__main__":
    verb, first, second, *rest = sys.argv[1:]
    if verb == "make":
        form, out, *others = rest
        make(traceable(first, Path(second)), form, Path(out), *map(Path, others))
    else:
        serve(opened(Path(first), int(second)), int(rest[0]))
