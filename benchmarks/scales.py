"""What do scales in float16 cost, which bundles for phones have, beside those in float32 of all other figures?

The same presets for ``x86-cpu`` and for ``arm64-cpu``, whose graph for all processors is scored: it computes in float32
with the float16 scales cast, so that scales alone differ. Held-out text as in accuracy.py, less of it.

    python benchmarks/scales.py [--data ../shared/data] [--models demo] [--documents 20]
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accuracy import LESS, bits_per_weight
from common import TARGET, WORK, group, save, table
from subjects import CONTEXT, MODELS, STORIES, STRIDE, Subject, add_data, make_subject

from edgepress.exporter import export
from edgepress.runtime import evaluate

NAME = "scales"
PRESETS = ("int8", "int4", "int4-128")  # those that need no text
SCALES = {"float32": TARGET, "float16": "arm64-cpu"}
GRAPH = "model.onnx"  # for all processors


def samples(subject: Subject, folder: Path) -> Iterator[dict[str, Any]]:
    """Each preset with both kinds of scales."""
    for preset in PRESETS:
        for scales, target in SCALES.items():
            out = folder / "bundle"
            manifest = export(subject.model, out=out, recipe=preset, target=target, force=True, threads=1)
            forms = {str(tensor["form"]) for tensor in manifest.tensors if tensor["scheme"]}
            found = evaluate(
                out,
                subject.texts,
                context=CONTEXT,
                stride=STRIDE,
                reference=subject.reference,
                threads=1,
                prepared=False,
                graph=GRAPH,
            )
            yield {
                "model": subject.name,
                "preset": preset,
                "scales": scales,
                "forms": sorted(forms),
                "bits_per_weight": bits_per_weight(out, manifest, subject.checkpoint),
                "kl": found.kl,
                "bits_per_byte": found.bits_per_byte,
                "tokens": found.scored_tokens,
            }


def report(found: Sequence[Mapping[str, Any]]) -> str:
    """Bits and KL of each preset with both kinds of scales."""
    rows = []
    for (model, preset), of_case in group(found, "model", "preset").items():
        by_scales = {one["scales"]: one for one in of_case}
        cells = [f"{by_scales[scales]['bits_per_weight']:.2f}" for scales in SCALES]
        cells += [f"{by_scales[scales]['kl']:.5f}" for scales in SCALES]
        cells += [f"{by_scales[scales]['bits_per_byte']:.4f}" for scales in SCALES]
        rows.append([model, preset, *cells])
    columns = ("bits a weight", "KL (nats)", "bits per byte")
    return table(["model", "preset", *(f"{what}, {scales}" for what in columns for scales in SCALES)], rows)


def main() -> None:
    """Export, score, keep the samples and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data(parser)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--documents", type=int, default=LESS, help=f"score so many of {STORIES} stories")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    WORK.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for model in arguments.models:
        subject = make_subject(model, arguments.data, arguments.documents / STORIES)
        with TemporaryDirectory(dir=WORK, prefix="scales-") as name:
            found += samples(subject, Path(name))
        print(report(found), flush=True)
    save(NAME, found)


if __name__ == "__main__":
    main()
