"""What hybrids, experts and inputs by layer cost at the shapes of real models, with random weights.

Of each config a checkpoint in bfloat16 is written, exported as int4 for x86-64, and run: 512 tokens of prompt, 64
decoded, once as the bundle is opened and once from its prepared form. Peaks are resident bytes, mapped pages included;
``anonymous`` is what only this process has.

    python benchmarks/real_shapes.py --zoo FOLDER [--llama] [--remove] LFM2.5-1.2B Qwen3.5-0.8B_text
    python benchmarks/real_shapes.py gemma-3n-E2B_text

Samples of models that are not named stay. A config is ``FOLDER/NAME.json``, ``{"config": …}`` as published, or one
of ``CONFIGS``. Needs disk for the checkpoint, 2 bytes a weight. With ``--llama`` llama.cpp decodes the same weights as
Q4_0, made by its own converter and quantizer, with its own defaults but keys and values in float32; it needs the
[bench] extra and as much disk again. ``--remove`` deletes what was made of each model when it is measured. ``--print``
adds nothing to the results: where the machine is not quiet, bytes can be seen all the same.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, WORK, group, measure_command, save, table
from make_checkpoint import write_shard
from memory import DECODED, PROMPT, run

from edgepress.bundle.manifest import read_manifest
from edgepress.exporter.model.architectures import architecture, describe

CONFIGS: dict[str, dict[str, object]] = {
    "gemma-3n-E2B_text": {
        "model_type": "gemma3n_text",
        "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 20,
        "altup_num_inputs": 4,
        "final_logit_softcapping": 30.0,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 2048,
        "hidden_size_per_layer_input": 256,
        "intermediate_size": [8192] * 30,
        "laurel_rank": 64,
        "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 6,
        "max_position_embeddings": 32_768,
        "num_attention_heads": 8,
        "num_hidden_layers": 30,
        "num_key_value_heads": 2,
        "num_kv_shared_layers": 10,
        "rms_norm_eps": 1e-6,
        "rope_local_base_freq": 10_000.0,
        "rope_theta": 1_000_000.0,
        "sliding_window": 512,
        "vocab_size": 262_400,
        "vocab_size_per_layer_input": 262_144,
    }
}  # sizes of published models
HERE = Path(__file__).resolve().parent
DEMO = HERE.parent / "exporter" / "demo" / "model"
THREADS = 2
LLAMA = """
import json, sys, time
import llama_cpp
import numpy as np
from comparison import LlamaCpp
from edgepress.runtime.machine.memory import read_memory
path, threads, prompt, decoded = sys.argv[1], *map(int, sys.argv[2:])
before = read_memory()
start = time.perf_counter()
model = LlamaCpp(path, threads, prompt, decoded)
seconds = time.perf_counter() - start
loaded = read_memory()
model.start(np.random.default_rng(0).integers(3, 1000, prompt).tolist())
start = time.perf_counter()
for _ in range(decoded):
    model.step()
decode = time.perf_counter() - start
found = {"before": vars(before), "loaded": vars(loaded), "end": vars(read_memory())}
print(json.dumps({"start_s": seconds, "decode_s": decode, **found}))
"""


def shapes(config: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint, by the parts that the family's description reads, under its published name."""
    found: dict[str, tuple[int, ...]] = {}
    with_head = (architecture(str(config["model_type"])).base_prefix,)  # as names begin where a head is among them
    for weight in describe(config, with_head).weights():
        for part in weight.parts:
            rest = weight.shape[1:]
            shape = (*rest, part.stop) if part.transposed else (part.stop, *rest)
            if part.index is not None:
                shape = (part.index + 1, *shape)
            found[part.tensor] = tuple(map(max, shape, found.get(part.tensor, (0,) * len(shape))))
    return found


def config_of(name: str, zoo: Path | None) -> dict[str, Any]:
    """A config by its name: a file of ``zoo``, or one of ``CONFIGS``."""
    path = None if zoo is None else zoo / f"{name}.json"
    if path is not None and path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["config"]
        return found
    if name not in CONFIGS:
        sys.exit(f"there is no {name}.json in {zoo}, and {name} is none of {', '.join(CONFIGS)}")
    return dict(CONFIGS[name])


def checkpoint(name: str, zoo: Path | None) -> Path:
    """Write the checkpoint of a config, if it is not there."""
    folder = WORK / f"checkpoint-{name}"
    if not (folder / "config.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        config = config_of(name, zoo)
        random = np.random.Generator(np.random.SFC64(0))
        write_shard(folder / "model.safetensors", shapes(config), random)
        for path in DEMO.glob("*token*.json"):
            shutil.copyfile(path, folder / path.name)
        config["eos_token_id"] = 2
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def measure(name: str, zoo: Path | None) -> list[dict[str, Any]]:
    """Samples of one model: its export, and two runs."""
    source, out = checkpoint(name, zoo), WORK / f"real-{name}"
    weights = sum(prod(shape) for shape in shapes(json.loads((source / "config.json").read_text())).values())
    words = ["-m", "edgepress", "export", source, "--recipe", "int4", "--target", "x86-cpu", "--out", out, "--force"]
    cost = measure_command([sys.executable, *words])
    size = sum(entry.size for entry in read_manifest(out).files.values())
    common = {"model": name, "weights": weights, "bundle_bytes": size}
    samples = [{**common, "what": "export", "wall_s": cost.wall_s, "cpu_s": cost.cpu_s, "peak_bytes": cost.peak_bytes}]
    for prepared in (False, True):
        if prepared:
            run(out, THREADS, True)  # makes the form
        samples.append({**common, "what": "prepared" if prepared else "opened", **run(out, THREADS, prepared)})
    return samples


def measure_llama(name: str, zoo: Path | None) -> dict[str, Any]:
    """A sample of llama.cpp on the same weights, in Q4_0."""
    from peers.llama_cpp import quantize
    from peers.llama_cpp_source import source

    exact, model = (WORK / f"real-{name}{end}.gguf" for end in ("-bf16", ""))
    try:
        convert = [sys.executable, HERE / "peers" / "llama_cpp_convert.py", source(), checkpoint(name, zoo), exact]
        measure_command(convert)
        quantize(exact, model, "Q4_0", threads=THREADS)
        exact.unlink()
        words = [sys.executable, "-c", LLAMA, model, THREADS, PROMPT, DECODED]
        paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            list(map(str, words)), env=os.environ | {"PYTHONPATH": paths}, check=True, stdout=subprocess.PIPE, text=True
        )
        found = json.loads(done.stdout.splitlines()[-1])
        return {"model": name, "what": "llama.cpp Q4_0", "bundle_bytes": model.stat().st_size, **found}
    finally:
        for path in (exact, model):
            path.unlink(missing_ok=True)


def remove(name: str) -> None:
    """Delete the checkpoint of a model and its bundle."""
    for folder in (WORK / f"checkpoint-{name}", WORK / f"real-{name}"):
        shutil.rmtree(folder, ignore_errors=True)


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """A row for each model."""
    rows = []
    for (name,), found in group(samples, "model").items():
        by = {sample["what"]: sample for sample in found}
        export, opened, prepared = by["export"], by["opened"], by["prepared"]
        rows.append(
            [
                f"{name}, {export['weights'] / 1e9:.2f} G weights",
                f"{export['bundle_bytes'] / 1e6:,.0f}",
                f"{export['wall_s']:.0f}",
                f"{export['peak_bytes'] / 1e6:,.0f}",
                *(f"{sample['end']['rss'] / 1e6:,.0f}" for sample in (opened, prepared)),
                *(f"{sample['end']['anonymous'] / 1e6:,.0f}" for sample in (opened, prepared)),
                f"{opened['start_s']:.1f}, {prepared['start_s']:.1f}",
                f"{DECODED / opened['decode_s']:.1f}",
                *_of_llama(by.get("llama.cpp Q4_0")),
            ]
        )
    header = ["shape, random weights", "bundle MB", "export s", "export MB", "run MB", "prepared MB"]
    header += ["run anonymous MB", "prepared anonymous MB", "start s, prepared", "tokens/s, 2 threads"]
    header += ["llama.cpp Q4_0 MB", "its run MB", "its tokens/s"]
    return table(header, rows)


def _of_llama(sample: Mapping[str, Any] | None) -> list[str]:
    if sample is None:
        return ["–"] * 3
    sizes = (sample["bundle_bytes"], sample["end"]["rss"])
    return [*(f"{size / 1e6:,.0f}" for size in sizes), f"{DECODED / sample['decode_s']:.1f}"]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME")
    parser.add_argument("--zoo", type=Path, metavar="FOLDER")
    parser.add_argument("--llama", action="store_true", help="llama.cpp beside it, on the same weights")
    parser.add_argument("--remove", action="store_true", help="delete checkpoint and bundle of each when measured")
    parser.add_argument("--print", action="store_true", help="keep no samples")
    args = parser.parse_args()
    if args.print:
        print(report([sample for name in args.models for sample in measure(name, args.zoo)]))
        return
    path = RESULTS / "real_shapes.jsonl"
    before = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]] if path.is_file() else []
    kept = [sample for sample in before if sample["model"] not in args.models]
    found: list[dict[str, Any]] = []
    for name in args.models:
        found += measure(name, args.zoo)
        if args.llama:
            found.append(measure_llama(name, args.zoo))
        if args.remove:
            remove(name)
    print(save("real_shapes", [*found, *kept]))
    print(report([*found, *kept]))


if __name__ == "__main__":
    main()
