"""What hybrids, experts and inputs by layer cost at the shapes of real models, with random weights.

Of each config a checkpoint in bfloat16 is written, exported as int4 for x86-64, and run: 512 tokens of prompt, 64
decoded, once as the bundle is opened and once from its prepared form. Peaks are resident bytes, mapped pages included;
``anonymous`` is what only this process has.

    python benchmarks/real_shapes.py --zoo FOLDER LFM2.5-1.2B Qwen3.5-0.8B_text

Samples of models that are not named stay. A config is ``FOLDER/NAME.json``, ``{"config": …}`` as published. Needs disk
for the checkpoint, 2 bytes a weight.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, WORK, group, measure_command, save, table
from make_checkpoint import write_shard
from memory import run

from edgepress.exporter.model.architectures import describe
from edgepress.manifest import read_manifest

DEMO = Path(__file__).resolve().parent.parent / "exporter" / "demo" / "model"


def shapes(config: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint, by the parts that the family's description reads."""
    found: dict[str, tuple[int, ...]] = {}
    for weight in describe(config, ()).weights():
        for part in weight.parts:
            rest = weight.shape[1:]
            shape = (*rest, part.stop) if part.transposed else (part.stop, *rest)
            if part.index is not None:
                shape = (part.index + 1, *shape)
            found[part.tensor] = tuple(map(max, shape, found.get(part.tensor, (0,) * len(shape))))
    return found


def checkpoint(name: str, zoo: Path) -> Path:
    """Write the checkpoint of a config, if it is not there."""
    folder = WORK / f"checkpoint-{name}"
    if not (folder / "config.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        config = json.loads((zoo / f"{name}.json").read_text(encoding="utf-8"))["config"]
        random = np.random.Generator(np.random.SFC64(0))
        write_shard(folder / "model.safetensors", shapes(config), random)
        for path in DEMO.glob("*token*.json"):
            shutil.copyfile(path, folder / path.name)
        config["eos_token_id"] = 2
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def measure(name: str, zoo: Path) -> list[dict[str, Any]]:
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
            run(out, 2, True)  # makes the form
        samples.append({**common, "what": "prepared" if prepared else "opened", **run(out, 2, prepared)})
    return samples


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
                f"{64 / opened['decode_s']:.1f}",
            ]
        )
    header = ["shape, random weights", "bundle MB", "export s", "export MB", "run MB", "prepared MB"]
    header += ["run anonymous MB", "prepared anonymous MB", "start s, prepared", "tokens/s, 2 threads"]
    return table(header, rows)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME")
    parser.add_argument("--zoo", type=Path, required=True, metavar="FOLDER")
    args = parser.parse_args()
    path = RESULTS / "real_shapes.jsonl"
    before = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]] if path.is_file() else []
    kept = [sample for sample in before if sample["model"] not in args.models]
    samples = [*(sample for name in args.models for sample in measure(name, args.zoo)), *kept]
    print(save("real_shapes", samples))
    print(report(samples))


if __name__ == "__main__":
    main()
