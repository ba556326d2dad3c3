"""LiteRT: litert-torch's conversion of a torch module, ai-edge-quantizer's integers, LiteRT's interpreter (XNNPACK).

Run by the Python of ``pip install litert-torch torch==2.13.0``, without us::

    python litert_apart.py make NAME WEIGHTS FORM OUT.tflite SIZES [SAMPLES.npz]
    python litert_apart.py serve OUT.tflite THREADS PIPE

NAME and WEIGHTS are those of any_model_torch.py. Its converter refuses these modules with free sizes (litert-torch
0.10: "broadcast_in_dim shape must have every element be nonnegative"), so a file has a signature for each of SIZES,
``1x32,32x64`` for samples × tokens, which share their weights; an input is filled with zeros up to the smallest that
holds it, and that is in its time. FORM is ``fp32``, or a function of ``ai_edge_quantizer.recipe``, whose ranges come
from SAMPLES: an array for each input, samples by its first axis, each a batch of one.
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from serving import serve

sys.path.append(str(Path(__file__).resolve().parents[1]))
from any_model_torch import Traceable, traceable

Feed = dict[str, np.ndarray]


def make(model: Traceable, form: str, out: Path, sizes: str, samples: Path | None = None) -> None:
    """Write a file with a signature for each of ``sizes``."""
    import litert_torch
    import torch
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    converter = litert_torch
    for name in sizes.split(","):
        given = dict(enumerate(map(int, name.split("x"))))
        shapes = [
            [given[axis] if axis in free else size for axis, size in enumerate(value.shape)]
            for value, free in zip(model.example, model.axes, strict=True)
        ]
        inputs = tuple(torch.ones(shape, dtype=value.dtype) for shape, value in zip(shapes, model.example, strict=True))
        converter = converter.signature(name, model.module, inputs)
    converter.convert().export(str(out))
    if form == "fp32":
        return
    tool, ranges = quantizer.Quantizer(str(out), getattr(recipe, form)()), None
    if samples is not None:
        runners = {name: Interpreter(str(out)).get_signature_runner(name) for name in sizes.split(",")}
        with np.load(samples) as arrays:
            rows = list(zip(*arrays.values(), strict=True))
        ranges = tool.calibrate({name: list(_filled(runner, rows)) for name, runner in runners.items()})
    tool.quantize(ranges).export_model(str(out), overwrite=True)


def _filled(runner: object, rows: list[tuple[np.ndarray, ...]]) -> Iterable[Feed]:
    """Samples in batches as large as a signature's."""
    inputs = runner.get_input_details()
    count = next(iter(inputs.values()))["shape"][0]
    for start in range(0, len(rows) - count + 1, count):
        stacked = [np.concatenate(values) for values in zip(*rows[start : start + count], strict=True)]
        yield dict(zip(inputs, stacked, strict=True))


def opened(file: Path, threads: int) -> Callable[[Feed], np.ndarray]:
    """The model's answer to arrays in the order of its inputs."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file), num_threads=threads)
    runners = [interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()]
    all_inputs = [runner.get_input_details() for runner in runners]
    all_outputs = [next(iter(runner.get_output_details().values())) for runner in runners]
    order = np.argsort([np.prod(next(iter(inputs.values()))["shape"]) for inputs in all_inputs])

    def answer(feed: Feed) -> np.ndarray:
        shape = next(iter(feed.values())).shape
        for index in order:
            inputs = all_inputs[index]
            if all(np.less_equal(shape, next(iter(inputs.values()))["shape"])):
                break
        else:
            raise ValueError(f"no signature holds {shape}")
        filled = {}
        for (name, detail), value in zip(inputs.items(), feed.values(), strict=True):
            scale, zero = detail["quantization"]
            codes = value if not scale else _rounded(value / scale + zero, detail["dtype"])
            filled[name] = np.full(detail["shape"], zero if scale else 0, detail["dtype"])
            filled[name][tuple(map(slice, value.shape))] = codes
        found = np.asarray(next(iter(runners[index](**filled).values()))[: shape[0]])
        scale, zero = all_outputs[index]["quantization"]
        return found if not scale else (found.astype(np.float32) - zero) * np.float32(scale)

    return answer


def _rounded(values: np.ndarray, kind: type[np.integer]) -> np.ndarray:
    limits = np.iinfo(kind)
    return np.clip(np.rint(values), limits.min, limits.max).astype(kind)


if __name__ == "__main__":
    verb, first, second, *rest = sys.argv[1:]
    if verb == "make":
        form, out, sizes, *others = rest
        make(traceable(first, Path(second)), form, Path(out), sizes, *map(Path, others))
    else:
        serve(opened(Path(first), int(second)), int(rest[0]))
