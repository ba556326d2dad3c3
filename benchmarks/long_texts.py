"""Long texts: keys and values as integers, more than the context, shortened prompts. What is lost, saved and paid?

``caches``: bits per byte of held-out text, as accuracy.py scores it, and of the same documents as one text, in windows
of the model's whole context, with caches of float32 and of 8 bits, scales found on the model's calibration text, in
pieces of 256 tokens or of 32, and by each channel's largest value there alone, as if keys did not turn; and of 4 bits,
which are not offered: the same graph, edited. ``cost``: the shape of
Qwen2.5-0.5B with random weights, int4: bytes of its states after 4,096 tokens, and, in turn, the time of a token there,
of the last piece of its prompt, and of forgetting an eighth by moving what stays. ``forgetting``: one text of many
stories through a context of 128 tokens of which a share is forgotten when it is full, with the first 4 tokens kept and
without, by computing what stays again and by moving it, in floats and in 8 bits, beside windows of 128 that are
computed anew for each token, whose cost nobody would pay. ``compression``: bits per byte of the
last third of each document after the rest of it, shortened to half by information, to its last half, or not there.

    python benchmarks/long_texts.py [--only caches forgetting] [--data ../shared/data] [--models demo] [--documents 20]
"""

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import torch
from common import RESULTS, SIZES, TARGET, WORK, group, save, spread, table
from export_cost import checkpoint
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from subjects import CONTEXT, MODELS, STORIES, STRIDE, Subject, add_data, make_subject

from edgepress.bundle.states import state_bytes
from edgepress.exporter import export
from edgepress.exporter.bundle.on_text.cache_scales import _LARGEST, _MARGIN
from edgepress.runtime.config import BundleConfig, read_config
from edgepress.runtime.generation.forgetting import Forgetting
from edgepress.runtime.measures.evaluate import evaluate_logits, log_softmax, read_corpus
from edgepress.runtime.model import Model, load
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.runtime.turns.compression import compress, information_of

NAME, PARTS = "long_texts", ("caches", "cost", "forgetting", "compression")
BITS = (32, 8, 4)
FLOATS, IN_8_BITS, PEAKS, IN_4_BITS = "float32", "8 bits", "8 bits, scales for peaks alone", "4 bits, not offered"
# Bits, and tokens of a calibration text.
KINDS = {FLOATS: (32, CONTEXT), IN_8_BITS: (8, CONTEXT), "8 bits, by texts of 32 tokens": (8, 32), PEAKS: (8, CONTEXT)}
TURNINGS = "edgepress.exporter.bundle.on_text.cache_scales._turnings"
SHAPE, LENGTH, PIECE, ROUNDS, TURNS = "qwen2.5-0.5b", 4096, 128, 5, 16
WINDOW, STREAM, FIRST = 128, 3072, 4  # tokens of a context, of the text, and of its beginning that stay
WORDS = 90  # of a piece of text whose last third is scored: within the context of every model
HALF, EIGHTH, SIXTEENTH, ONE = 0.5, 0.125, 0.0625, 1 / WINDOW
WAYS = {
    "window": None,
    "first": Forgetting(FIRST, HALF, "computing"),
    "last": Forgetting(0, HALF, "computing"),
    "first moved": Forgetting(FIRST, HALF, "moving"),
    "eighth moved": Forgetting(FIRST, EIGHTH, "moving"),
    "eighth last moved": Forgetting(0, EIGHTH, "moving"),
    "sixteenth moved": Forgetting(FIRST, SIXTEENTH, "moving"),
    "one moved": Forgetting(FIRST, ONE, "moving"),
}
MOVED_IN_8_BITS = ("first moved", "eighth moved", "sixteenth moved", "one moved")
LARGEST_OF_4 = 7


def in_4_bits(config: BundleConfig, folder: Path) -> BundleConfig:
    """The bundle with keys and values in 4 bits: its graph an edited copy in ``folder``, its weights a link."""
    model = onnx.load(config.model, load_external_data=False)
    states = {name for state in config.states for name in (state.input, state.output)}
    for value in [*model.graph.input, *model.graph.output]:
        if value.name in states:
            value.type.tensor_type.elem_type = TensorProto.UINT8
            value.type.tensor_type.shape.dim[3].dim_value //= 2
    for tensor in model.graph.initializer:
        if tensor.name.removesuffix(".scale") in {state.name for state in config.states}:
            scale = numpy_helper.to_array(tensor) * np.float32(_LARGEST / _MARGIN / LARGEST_OF_4)
            tensor.CopyFrom(numpy_helper.from_array(scale, tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "kv_cache_bit_width":
                attribute.i = 4
    for path in config.bundle.iterdir():
        if path != config.model:
            (folder / path.name).hardlink_to(path)
    onnx.save(model, folder / config.model.name)
    stored = (
        replace(state, type="uint8", shape=(*state.shape[:3], int(state.shape[3]) // 2)) for state in config.states
    )
    return replace(config, bundle=folder, model=folder / config.model.name, states=tuple(stored))


class Source:
    """A bundle's logits at every position of a text, by a cache of its whole context."""

    def __init__(self, config: BundleConfig) -> None:
        context = config.context_length
        self._session = CpuSession(config, threads=1, context=context, prefill_chunk=PIECE, prepared=False)

    def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (length, vocab) of ``tokens`` (length,)."""
        self._session.reset()
        return np.array(self._session.append(tokens, 0), np.float32)


def caches(subjects: Sequence[Subject], folder: Path) -> Iterator[dict[str, Any]]:
    """Bits per byte with each kind of cache."""
    for subject in subjects:
        text = folder / f"{subject.name}{subject.suffix}"
        text.write_text(subject.calibration, encoding="utf-8")
        recipe = f'weights.bits = 32\ncalibration.text = ["{text}"]'
        configs = {}
        for kind, (bits, length) in KINDS.items():
            with patch(TURNINGS, return_value={}) if kind == PEAKS else nullcontext():
                out = folder / f"{subject.name}-{len(configs)}"
                made = cached(subject.model, out, bits, f"{recipe}\ncalibration.length = {length}")
                configs[kind] = read_config(made)
        edited = folder / f"{subject.name}-4"
        edited.mkdir()
        configs[IN_4_BITS] = in_4_bits(configs[IN_8_BITS], edited)
        corpus, whole = read_corpus(configs[FLOATS].bundle, subject.texts), configs[FLOATS].context_length
        joined = replace(corpus, documents=(np.concatenate(corpus.documents),), utf8_bytes=(sum(corpus.utf8_bytes),))
        for kind, config in configs.items():
            for text, context in ((corpus, CONTEXT), (joined, whole)):
                found = evaluate_logits(
                    Source(config), text, context=context, stride=STRIDE, reference=subject.reference
                )
                yield {
                    "model": subject.name,
                    "kind": kind,
                    "text": "documents" if text is corpus else "joined",
                    "context": context,
                    "bits_per_byte": found.bits_per_byte,
                    "kl": found.kl,
                    "tokens": found.scored_tokens,
                    "bytes_a_token": sum(state.bytes_at(1) for state in config.states),
                }


def cached(model: str | Path, out: Path, bits: int, recipe: str, *, context: int | None = None) -> Path:
    """A bundle whose keys and values have so many bits; ``recipe`` says the rest."""
    path = out.with_suffix(".toml")
    path.write_text(f"{recipe}\n{f'cache.bits = {bits}' if bits < BITS[0] else ''}\n", encoding="utf-8")
    export(model, out=out, recipe=path, target=TARGET, context_length=context)
    return out


def cost(folder: Path) -> Iterator[dict[str, Any]]:
    """Bytes, and seconds in turn."""
    recipe = f'weights.bits = 4\nweights.block_size = 32\ncalibration.text = ["{__file__}"]\ncalibration.tokens = 512'
    source, longest = checkpoint(SHAPE), LENGTH + PIECE  # any text will do: the weights are random
    made = {bits: cached(source, folder / str(bits), bits, recipe, context=longest) for bits in BITS[:2]}
    opened = {bits: load(out, threads=1, context=longest, verify=False) for bits, out in made.items()}
    tokens = np.random.default_rng(0).integers(1000, 2000, LENGTH).tolist()
    took: dict[int, dict[str, list[float]]] = {bits: {"prompt": [], "token": [], "moving": []} for bits in opened}
    for model in opened.values():
        model.prefill(tokens[:-PIECE])
    for _ in range(ROUNDS):
        for bits, model in opened.items():
            model.session.roll_back(LENGTH - PIECE)
            start = perf_counter()
            model.prefill(tokens[-PIECE:])
            took[bits]["prompt"].append((perf_counter() - start) / PIECE)
            steps = []
            for _ in range(TURNS):
                start = perf_counter()
                model.decode(tokens[0])
                steps.append(perf_counter() - start)
            took[bits]["token"].append(median(steps))
            session, moved = model.session, int(LENGTH * EIGHTH)
            if not session.why_not_evict(LENGTH - FIRST - moved):
                aside = session.snapshot()
                start = perf_counter()
                session.evict(FIRST, moved)
                took[bits]["moving"].append(perf_counter() - start)
                session.restore(aside)
    for bits, seconds in took.items():
        states = opened[bits].config.states
        yield {"model": SHAPE, "bits": bits, "state_bytes": state_bytes(states, LENGTH), "seconds": seconds}


def forgetting(subjects: Sequence[Subject], folder: Path) -> Iterator[dict[str, Any]]:
    """Bits a token of a long text by what stays when the context is full, and tokens computed for each of it."""
    for subject in subjects:
        seen = folder / f"{subject.name}{subject.suffix}"
        seen.write_text(subject.calibration, encoding="utf-8")
        recipe = f'weights.bits = 32\ncalibration.text = ["{seen}"]'
        for kept, ways in ((BITS[0], WAYS), (BITS[1], MOVED_IN_8_BITS)):
            out = cached(subject.model, folder / f"{subject.name}-stream-{kept}", kept, recipe)
            config = read_config(out)
            text = np.concatenate(read_corpus(out, subject.texts).documents)[:STREAM]
            for way in ways:
                session = CpuSession(config, threads=1, context=WINDOW, prefill_chunk=WINDOW, prepared=False)
                bits, computed = scored(session, text, WAYS[way])
                found = {"bits_a_token": bits, "tokens": len(text), "computed": computed}
                yield {"model": subject.name, "bits": kept, "way": way, **found}


def scored(session: CpuSession, text: NDArray[np.int64], how: Forgetting | None) -> tuple[float, int]:
    """Bits a token of those beyond the first context, and how many tokens were computed for each of them."""
    bits, held, computed = [], text[:1].tolist(), 1
    row = session.append(text[:1])[-1]
    for place, token in enumerate(text[1:].tolist(), 1):
        if place >= WINDOW:
            bits.append(-float(log_softmax(row[None])[0, token]) / np.log(2))
        held.append(token)
        if how is None and place >= WINDOW:
            held = held[-WINDOW:]
        elif how is not None and how.way == "computing" and len(held) > WINDOW:
            held = how.kept(held, WINDOW)
        else:
            if len(held) > WINDOW:
                assert how is not None
                kept = how.kept(held, WINDOW)
                session.evict(how.first, len(held) - len(kept))
                held = kept
            row, computed = session.append(np.array([token]))[-1], computed + 1
            continue
        session.reset()
        row, computed = session.append(np.array(held))[-1], computed + len(held)
    return float(np.mean(bits)), round(computed / len(text), 2) if bits else 0


def compression(subjects: Sequence[Subject], folder: Path) -> Iterator[dict[str, Any]]:
    """Bits per byte of the end of each text after its beginning, which is shortened."""
    for subject in subjects:
        out = folder / f"{subject.name}-compressed"
        export(subject.model, out=out, recipe="fp32", target=TARGET)
        model = load(out, threads=1, verify=False)
        pairs = [cut for text in subject.texts for cut in ends_of(text)]
        prompts = {"whole": [prompt for prompt, _ in pairs], "none": ["" for _ in pairs]}
        prompts["last"] = [last_half(prompt) for prompt, _ in pairs]
        prompts["information"] = [compress(model, prompt, 0.5).text for prompt, _ in pairs]
        for name in ("whole", "information", "last", "none"):
            bits = sum(bits_after(model, prompt, end) for prompt, (_, end) in zip(prompts[name], pairs, strict=True))
            yield {
                "model": subject.name,
                "prompt": name,
                "bits_per_byte": bits / sum(len(end.encode()) for _, end in pairs),
            }


def ends_of(text: str) -> Iterator[tuple[str, str]]:
    """Pieces of a text, each in two: what stands before, and the third that follows."""
    words = re.findall(r"\S+\s*", text)
    for start in range(0, len(words) - WORDS + 1, WORDS):
        piece = words[start : start + WORDS]
        yield "".join(piece[: 2 * WORDS // 3]), "".join(piece[2 * WORDS // 3 :])


def last_half(text: str) -> str:
    """The last half of its words."""
    words = re.findall(r"\S+\s*", text)
    return "".join(words[len(words) // 2 :])


def bits_after(model: Model, prompt: str, end: str) -> float:
    """Bits of the tokens of ``end`` after ``prompt``."""
    before, after = model.tokenizer.encode_plain(prompt), model.tokenizer.encode_plain(end)
    return float(information_of(model, [*before, *after])[len(before) :].sum() / np.log(2))


def report_caches(found: Sequence[Mapping[str, Any]]) -> str:
    """A row for each model and kind of cache."""
    rows = []
    for (model, kind), measured in group(found, "model", "kind").items():
        row = [SIZES[model], kind, f"{measured[0]['bytes_a_token']:,}"]
        for text in ("documents", "joined"):
            (one,) = [one for one in measured if one["text"] == text]
            (whole,) = [of for of in found if (of["model"], of["kind"], of["text"]) == (model, FLOATS, text)]
            more = one["bits_per_byte"] / whole["bits_per_byte"] - 1
            row += [f"{one['bits_per_byte']:.4f}", "–" if one is whole else f"{more:+.2%}", f"{one['kl']:.5f}"]
        rows.append(row)
    each = ["more", "KL (nats)"]
    columns = ["model", "keys and values", "bytes a token", f"bits per byte, windows of {CONTEXT}", *each]
    return table([*columns, "of the whole context", *each], rows)


def report_cost(found: Sequence[Mapping[str, Any]]) -> str:
    """A row for each kind of cache."""
    whole = next((one for one in found if one["bits"] == BITS[0]), None)
    rows = []
    for one in found:
        ratios = [
            [mine / theirs for mine, theirs in zip(one["seconds"][what], whole["seconds"][what], strict=True)]
            for what in ("prompt", "token")
            if whole is not None
        ]
        kind = {32: "float32", 8: "8 bits"}[one["bits"]]
        moving = [
            moved / token for moved, token in zip(one["seconds"]["moving"], one["seconds"]["token"], strict=False)
        ]
        moves = f"{spread(moving)} tokens" if moving else "not measured"
        rows.append([kind, f"{one['state_bytes'] / 1e6:.1f}", *(spread(ratio) for ratio in ratios), moves])
    columns = (f"time of a prompt token before {LENGTH:,}", f"time of a token after {LENGTH:,}")
    forgetting_column = f"forgetting {int(LENGTH * EIGHTH)} by moving the rest"
    return table(["keys and values", f"MB of states, {LENGTH:,} tokens", *columns, forgetting_column], rows)


def report_forgetting(found: Sequence[Mapping[str, Any]]) -> str:
    """A row for each model and what stays."""
    words = {
        "window": "the last 128, computed anew for each token",
        "first": "the first 4 and the last 60, computed again",
        "last": "the last 64, computed again",
        "first moved": "the first 4 and the last 60, moved",
        "eighth moved": "the first 4 and the last 108, moved",
        "eighth last moved": "the last 112, moved",
        "sixteenth moved": "the first 4 and the last 116, moved",
        "one moved": "the first 4 and the last 123, moved",
    }
    rows = []
    for (model,), of_model in group(found, "model").items():
        floats = {one["way"]: one["bits_a_token"] for one in of_model if one["bits"] == BITS[0]}
        for one in of_model:
            bits, computed, way = one["bits_a_token"], one["computed"], one["way"]
            more = "–" if way == "window" else f"{bits / floats['window'] - 1:+.2%}"
            of_8_bits = "–" if one["bits"] == BITS[0] else f"{bits / floats[way] - 1:+.2%}"
            what = words[way] if one["bits"] == BITS[0] else f"{words[way]}, in 8 bits"
            rows.append([SIZES[model], what, f"{bits:.4f}", more, of_8_bits, f"{computed:.2f}"])
    columns = ["bits a token", "more", "of which 8 bits", "tokens computed for each"]
    return table(["model", "what stays when 128 are full", *columns], rows)


def report_compression(found: Sequence[Mapping[str, Any]]) -> str:
    """A row for each model and what stands before the text that is scored."""
    words = {"whole": "all", "information": "the half of most information", "last": "the last half", "none": "nothing"}
    rows = [[SIZES[one["model"]], words[one["prompt"]], f"{one['bits_per_byte']:.4f}"] for one in found]
    return table(["model", "of the prompt", "bits per byte of what follows"], rows)


REPORTS = {
    "caches": report_caches,
    "cost": report_cost,
    "forgetting": report_forgetting,
    "compression": report_compression,
}


def report(found: Sequence[Mapping[str, Any]]) -> str:
    """A table for each part, of those that are not measured its heading."""
    return "\n\n".join(REPORTS[part]([one for one in found if one["part"] == part]) for part in PARTS)


def read() -> list[Mapping[str, Any]]:
    """The samples that there are."""
    path = RESULTS / f"{NAME}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]] if path.exists() else []


def main() -> None:
    """Measure what is asked, keep it, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data(parser)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--documents", type=int, default=20, help=f"score so many of {STORIES} stories")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    WORK.mkdir(parents=True, exist_ok=True)
    subjects = [make_subject(name, arguments.data, arguments.documents / STORIES) for name in arguments.models]
    kept = [one for one in read() if one["part"] not in arguments.only]
    measures = {
        "caches": lambda folder: caches(subjects, folder),
        "cost": cost,
        "forgetting": lambda folder: forgetting(subjects, folder),
        "compression": lambda folder: compression(subjects, folder),
    }
    for part in arguments.only:
        with TemporaryDirectory(dir=WORK, prefix="long-") as name:
            kept += [{"part": part, **one} for one in measures[part](Path(name))]
        save(NAME, kept)
    print(report(kept))


if __name__ == "__main__":
    main()
