"""Optimum's ONNX export of a checkpoint, its dynamic int8 quantization and its runtime, in an environment of its own.

``optimum-onnx`` 0.1 pins transformers 4.57 and our exporter needs 5, so this file is run by the Python of another
environment (``pip install optimum-onnx accelerate torch onnxruntime``) and imports nothing of ours. Without accelerate
optimum stores a tied embedding twice::

    python optimum_apart.py build CHECKPOINT OUT
    python optimum_apart.py run OUT STEPS < prompt.json
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from time import process_time

import numpy as np

THREADS = 1


def resident() -> int:
    """Bytes of this process that lie in memory, mapped pages included."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def build(checkpoint: Path, out: Path) -> dict[str, str]:
    """Export with a cache, and quantize weights to 8 bits with one scale a channel, activations at each call.

    Returns the versions of what did it.
    """
    from optimum.exporters.onnx import main_export
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    main_export(str(checkpoint), str(out / "float32"), task="text-generation-with-past", do_validation=False)
    quantizer = ORTQuantizer.from_pretrained(out / "float32", file_name="model.onnx")
    how = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    quantizer.quantize(save_dir=out / "int8", quantization_config=how)
    return {package: version(package) for package in ("optimum-onnx", "accelerate", "transformers", "onnxruntime")}


def run(out: Path, prompt: list[int], steps: int) -> dict[str, object]:
    """CPU seconds of the prompt and of each of ``steps`` tokens, and the memory that opening and running took."""
    import onnxruntime
    import torch
    from optimum.onnxruntime import ORTModelForCausalLM

    torch.set_num_threads(THREADS)
    before = resident()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    model = ORTModelForCausalLM.from_pretrained(
        out / "int8", file_name="model_quantized.onnx", session_options=options, use_io_binding=False
    )
    tokens, past, seconds = torch.tensor([prompt]), None, []
    for position in range(steps + 1):
        start = process_time()
        mask = torch.ones(1, len(prompt) + position, dtype=torch.int64)
        found = model(input_ids=tokens, attention_mask=mask, past_key_values=past, use_cache=True)
        tokens, past = found.logits[:, -1:].argmax(-1), found.past_key_values
        seconds.append(process_time() - start)
    return {"prefill_cpu_s": seconds[0], "steps_cpu_s": seconds[1:], "resident_bytes": resident() - before}


def main() -> None:
    """Build or run."""
    verb, *rest = sys.argv[1:]
    if verb == "build":
        print(json.dumps(build(*map(Path, rest))))
    else:
        prompt = [int(token) for token in np.array(json.load(sys.stdin))]
        print(json.dumps(run(Path(rest[0]), prompt, int(rest[1]))))


if __name__ == "__main__":
    main()
