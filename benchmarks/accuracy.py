"""What does each preset cost in accuracy, at how many bits a weight?

Held-out text, bits per byte, KL and top-1 agreement against the checkpoint's own model in float32, windows of 256
tokens, stride 128. stories260k and tiny1m are scored on the TinyStories documents that their figures are known for, the
demo model on the last tenth of tinyshakespeare, which it was not trained on. ``bits a weight`` counts what is
stored for quantized tensors and everything kept in float32: codes, scales and padding.

    python benchmarks/accuracy.py [--data ../shared/data]
"""

import argparse
import os
import sys
from dataclasses import asdict
from math import prod
from pathlib import Path

import torch
from common import ROOT, WORK, save, table

from edgepress.exporter import export
from edgepress.exporter.checkpoint import resolve_model
from edgepress.exporter.reference import Reference
from edgepress.manifest import Manifest
from edgepress.runtime import evaluate, read_documents

RECIPES = ("fp32", "int8", "int4", "int4-fast")
HELD_OUT = 0.1  # of tinyshakespeare, from its end


def documents(data: Path) -> dict[str, tuple[str, list[str]]]:
    """Return, for each model, what names it to ``export`` and the documents to score."""
    stories = data / "text" / "tinystories"
    shakespeare = (data / "text" / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    return {
        "stories260k": (
            str(data / "models" / "stories260k"),
            read_documents(stories / "stories_heldout_newline.jsonl"),
        ),
        "tiny1m": (str(data / "models" / "tiny1m"), read_documents(stories / "stories_heldout_blank.jsonl")),
        "demo": ("demo", [shakespeare[int(len(shakespeare) * (1 - HELD_OUT)) :]]),
    }


def bits_per_weight(manifest: Manifest) -> float:
    """Stored bits over parameters, tied weights counted once."""
    parameters = sum(prod(tensor["shape"]) for tensor in manifest.tensors)
    return 8 * sum(tensor["bytes_after"] for tensor in manifest.tensors) / parameters


def main() -> None:
    """Export, evaluate, keep the samples, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("EDGEPRESS_DATA", ROOT.parent / "shared/data"))
    )
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        sys.exit(f"{arguments.data} is absent; name the folder with models/ and text/ by --data")
    torch.set_num_threads(1)  # on models this small a second thread costs more than it brings
    samples, rows = [], []
    for name, (model, texts) in documents(arguments.data).items():
        reference = Reference(resolve_model(model))
        for recipe in RECIPES:
            out = WORK / f"accuracy-{name}-{recipe}"
            manifest = export(model, out=out, recipe=recipe, force=True)
            result = evaluate(out, texts, context=256, stride=128, reference=reference, threads=1)
            bits = bits_per_weight(manifest)
            samples.append({"model": name, "recipe": recipe, "bits_per_weight": bits, **asdict(result)})
            rows.append(
                (
                    name,
                    recipe,
                    f"{bits:.2f}",
                    f"{result.bits_per_byte:.4f}",
                    f"{round(result.bits_per_byte / result.reference_bits_per_byte - 1, 4) + 0.0:+.2%}",
                    f"{result.kl:.4f}",
                    f"{result.top1_agreement:.1%}",
                )
            )
            print(" ".join(rows[-1]), flush=True)
    print(f"raw samples: {save('accuracy', samples)}")
    print(
        table(("model", "recipe", "bits a weight", "bits per byte", "against float32", "KL (nats)", "same top-1"), rows)
    )


if __name__ == "__main__":
    main()
