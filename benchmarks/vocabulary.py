"""Does a smaller vocabulary save what the head and the embedding cost: bytes, and time a token?

A random checkpoint of Qwen2.5-0.5B's shape, with a made-up byte-level tokenizer of as many tokens, is exported twice:
whole, and with its vocabulary pruned. Both bundles are held open in one process and take turns, a prompt each and then
decode steps, one each; a second process opens them in the other order. Before each step 1 GiB of something else is
read: a phone has no cache that holds the weights, and on a server that has one the bundles would compete for it. A
ratio is that of two turns that followed each other, and the figure is the median of ratios.

What should be saved: of the bytes, those of the rows that went, by the manifest; of a token's time, as large a part of
what the head took as rows went. The head's share of the time is that of its kernels, by onnxruntime's profiler in a
process of its own (the profiler slows the rest), over the step without the profiler. Beside it stands the share that
the rows were of all bytes that a token reads. The text says nothing here: it only decides which rows go.

    python benchmarks/vocabulary.py [--size 32000] [--threads 1 2] [--turns 8]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import edgepress  # noqa: F401 - before onnxruntime, whose telemetry it switches off

# isort: split
import numpy as np
import onnxruntime
from common import ROOT, TARGET, WORK, group, measure_command, read_sample, save, spread, table
from decode_speed import PROMPT, STEPS, Ours, timed
from make_checkpoint import SHAPES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from edgepress.runtime import load
from edgepress.runtime.sessions import cpu

SHAPE, RECIPE = "qwen2.5-0.5b", "int4-128"
EVICTED = 1 << 30  # bytes; the largest cache seen had 480 MiB
LONGEST = 12  # letters of a made-up token
WORDS = 8_000  # of the text: as much as is put aside to score costs minutes at this size


@dataclass(frozen=True)
class Turn:
    """A prompt and its decode steps by one bundle."""

    bundle: str
    turn: int
    opened_first: str
    threads: int
    prefill_s: float
    steps_s: list[float]


@dataclass(frozen=True)
class Profile:
    """Microseconds in the kernels that multiply by the head, by decode step."""

    bundle: str
    threads: int
    head_us: list[int]


def make_tokenizer(tokens: int, seed: int = 0) -> Tokenizer:
    """A byte-level tokenizer: 256 letters, three special tokens, and random merges of words and their parts."""
    random = np.random.default_rng(seed)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {text: index for index, text in enumerate(["<pad>", "<s>", "</s>", *letters])}
    inner = [chr(letter) for letter in range(ord("a"), ord("z") + 1)]
    parts, merges = ["Ġ", *inner], []
    while len(vocab) < tokens:
        a = parts[int(len(parts) * random.random() ** 2)]  # the earlier ones are the more frequent ones
        b = inner[int(len(inner) * random.random() ** 2)]
        if len(a + b) <= LONGEST and a + b not in vocab:
            vocab[a + b] = len(vocab)
            merges.append((a, b))
            parts.append(a + b)
            if not a.startswith("Ġ"):
                inner.append(a + b)
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>"])
    return tokenizer


def make_text(tokenizer: Tokenizer, words: int, seed: int = 0) -> str:
    """Words of the tokenizer's own, the earlier the more frequent."""
    random = np.random.default_rng(seed)
    known = [text[1:] for text, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]) if text[0] == "Ġ"]
    picks = (len(known) * random.random(words) ** 2).astype(int)
    return "\n".join(" ".join(known[pick] for pick in line) for line in np.array_split(picks, max(1, words // 10)))


def checkpoint() -> Path:
    """Make the checkpoint, its tokenizer and its text, once."""
    path, parts = WORK / f"checkpoint-vocabulary-{SHAPE}", WORK / "vocabulary-tokenizer"
    if not path.exists():
        parts.mkdir(parents=True, exist_ok=True)
        tokenizer = make_tokenizer(SHAPES[SHAPE].vocab)
        tokenizer.save(str(parts / "tokenizer.json"))
        (parts / "text.txt").write_text(make_text(tokenizer, WORDS), encoding="utf-8")
        script = Path(__file__).parent / "make_checkpoint.py"
        measure_command([sys.executable, script, SHAPE, path, "--tokenizer", parts])
    return path


def bundle(name: str) -> Path:
    """Where a bundle lies: ``whole``, or ``pruned-`` and its number of tokens."""
    return WORK / f"vocabulary-{name}"


def export(name: str) -> None:
    """Write a bundle, once."""
    if bundle(name).exists():
        return
    model, text = checkpoint(), WORK / "vocabulary-tokenizer" / "text.txt"
    command = [sys.executable, "-m", "edgepress", "export", model, "--target", TARGET]
    command += ["--out", bundle(name), "--recipe"]
    if name == "whole":
        measure_command([*command, RECIPE])
        return
    preset = (ROOT / "exporter" / "recipe" / "presets" / f"{RECIPE}.toml").read_text(encoding="utf-8")
    recipe = WORK / "vocabulary.toml"
    size = name.removeprefix("pruned-")
    recipe.write_text(f'prune = ["vocabulary"]\n{preset}\n[options.vocabulary]\nsize = {size}\n', encoding="utf-8")
    measure_command([*command, recipe, "--calibration", text])


def make_prompt() -> list[int]:
    """Tokens that both vocabularies have."""
    return [int(token) for token in np.random.default_rng(0).integers(3, 1000, PROMPT)]


def make_evict() -> Callable[[], object]:
    """What reads through more memory than any cache holds."""
    return np.ones(EVICTED // 8).sum


def measure(names: tuple[str, str], threads: int, turns: int) -> list[Turn]:
    """Open both bundles in this order, and take turns; the first turn is warm-up and not returned."""
    opened, evict = {name: Ours(bundle(name), threads) for name in names}, make_evict()
    prompt = make_prompt()
    found = []
    for turn in range(turns + 1):
        order = names if turn % 2 else names[::-1]
        prefill = {}
        for name in order:
            evict()
            prefill[name] = timed(lambda name=name: opened[name].start(prompt))
        steps: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(STEPS):
            for name in order:
                evict()
                steps[name].append(timed(opened[name].step))
        found += [Turn(name, turn, names[0], threads, prefill[name], steps[name]) for name in names]
    return [turn for turn in found if turn.turn > 0]


def measure_apart(names: tuple[str, str], threads: int, turns: int) -> list[Turn]:
    """Run :func:`measure` in a fresh process, with a cache of prepared bundles that is the benchmarks' own."""
    return [Turn(**entry) for entry in run_apart("--turns-of", *names, str(threads), str(turns))]


def profile(name: str, threads: int) -> Profile:
    """Decode a turn's steps with onnxruntime's profiler on."""
    with TemporaryDirectory() as folder:

        def profiled(count: int) -> onnxruntime.SessionOptions:
            options = plain(count)
            options.enable_profiling, options.profile_file_prefix = True, f"{folder}/profile"
            return options

        plain = cpu.session_options
        with mock.patch.object(cpu, "session_options", profiled):
            model = load(bundle(name), threads=threads)
        logits, evict = model.prefill(make_prompt()), make_evict()
        for _ in range(STEPS):
            evict()
            logits = model.decode(int(logits.argmax()))
        events = json.loads(Path(model.session._session.end_profiling()).read_text(encoding="utf-8"))
    return Profile(name, threads, head_times(events))


def head_times(events: list[dict[str, Any]]) -> list[int]:
    """Return microseconds of the head's kernels, several where it is large, in each of the last ``STEPS`` runs."""
    found: dict[str, list[int]] = defaultdict(list)  # by kernel, a run after the other
    for event in events:
        name = event["name"]
        if event.get("cat") == "Node" and name.startswith("logits") and name.endswith("_kernel_time"):
            found[name].append(event["dur"])
    return [sum(step) for step in zip(*(times[-STEPS:] for times in found.values()), strict=True)]


def profile_apart(name: str, threads: int) -> Profile:
    """Run :func:`profile` in a fresh process."""
    return Profile(**run_apart("--profile-of", name, str(threads)))


def run_apart(*arguments: str) -> Any:
    """Run this script on the benchmarks' own cache of prepared bundles, and return what it prints."""
    environment = os.environ | {"EDGEPRESS_CACHE": str(WORK / "prepared")}
    command = [sys.executable, __file__, *arguments]
    return json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)


@dataclass(frozen=True)
class Weight:
    """A bundle's bytes, by its manifest: its data file, embedding and head (0: tied), and what a token reads of it."""

    bundle: str
    tokens: int
    data_bytes: int
    embedding_bytes: int
    head_bytes: int
    read_bytes: int


def weigh(name: str, manifest: Mapping[str, Any]) -> Weight:
    """Add up what a manifest says."""
    tensors = {tensor["name"]: tensor for tensor in manifest["tensors"]}
    sizes = {tensor: int(found["bytes_after"]) for tensor, found in tensors.items()}
    gathered = sizes["embedding"] if "head" in sizes else 0  # of which a token reads a row, next to nothing
    size = manifest["files"]["model.onnx.data"]["size"]
    read = sum(sizes.values()) - gathered
    return Weight(name, tensors["embedding"]["shape"][0], size, sizes["embedding"], sizes.get("head", 0), read)


def expected(whole: Weight, pruned: Weight) -> tuple[float, float]:
    """Shares of the data file, and of what a token reads, that the rows which went were."""
    embedding, head = whole.embedding_bytes - pruned.embedding_bytes, whole.head_bytes - pruned.head_bytes
    return (embedding + head) / whole.data_bytes, (head or embedding) / whole.read_bytes


def bytes_row(whole: Weight, pruned: Weight) -> tuple[str, ...]:
    """Sizes before and after, the fall, and what it should be."""
    fall, share = 1 - pruned.data_bytes / whole.data_bytes, expected(whole, pruned)[0]
    return (
        SHAPE,
        f"{whole.tokens:,} → {pruned.tokens:,}",
        f"{whole.data_bytes / 1e6:.1f} → {pruned.data_bytes / 1e6:.1f}",
        f"{fall:.1%}",
        f"{share:.1%}",
        f"{fall / share:.2f}",
    )


def time_row(turns: list[Turn], profiled: Profile, gone: float, read: float) -> tuple[str, ...]:
    """Milliseconds a token before and after, the fall as the median of ratios, and what it should be.

    ``gone`` is the share of the head's rows that went, ``read`` the share of the bytes read that these were.
    """
    whole, pruned = (
        [statistics.median(turn.steps_s) for turn in turns if (turn.bundle == "whole") == is_whole]
        for is_whole in (True, False)
    )
    falls = [1 - after / before for before, after in zip(whole, pruned, strict=True)]
    fall = statistics.median(falls)
    head = statistics.median(profiled.head_us) / 1e6 / statistics.median(whole)
    return (
        SHAPE,
        str(profiled.threads),
        *(spread([1e3 * value for value in values], 1) for values in (whole, pruned)),
        f"{fall:.1%} ({min(falls):.1%}–{max(falls):.1%})",
        f"{head:.1%} × {gone:.1%} = {head * gone:.1%}",
        f"{fall / (head * gone):.2f}",
        f"{read:.1%}",
    )


TIMES = ("shape", "threads", "whole ms/token", "pruned ms/token", "fall", "head's share × rows that went")
TIMES += ("fall ÷ that", "of the bytes read", "load before")


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """The tables, from raw samples."""
    whole, pruned = (read_sample(Weight, one) for one in samples if "data_bytes" in one)
    read, gone = expected(whole, pruned)[1], 1 - pruned.tokens / whole.tokens
    rows = []
    for (_, load_before), found in group((one for one in samples if "threads" in one), "threads", "load").items():
        turns = [read_sample(Turn, one) for one in found if "steps_s" in one]
        (profiled,) = (read_sample(Profile, one) for one in found if "head_us" in one)
        rows.append((*time_row(turns, profiled, gone, read), f"{load_before:.1f}"))
    sizes = table(("shape", "tokens", "data MB", "fall", "should be", "fall ÷ should"), [bytes_row(whole, pruned)])
    return f"{sizes}\n\n{table(TIMES, rows)}"


def main() -> None:
    """Export, measure in turn, keep the raw samples, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32_000)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--turns-of", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--profile-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.turns_of:
        first, second, threads, turns = arguments.turns_of
        print(json.dumps([asdict(turn) for turn in measure((first, second), int(threads), int(turns))]))
        return
    if arguments.profile_of:
        name, threads = arguments.profile_of
        print(json.dumps(asdict(profile(name, int(threads)))))
        return
    names = ("whole", f"pruned-{arguments.size}")
    for name in names:
        export(name)
    manifests = [json.loads((bundle(name) / "manifest.json").read_text(encoding="utf-8")) for name in names]
    samples = [asdict(weigh(name, manifest)) for name, manifest in zip(names, manifests, strict=True)]
    for threads in arguments.threads:
        before = os.getloadavg()[0]
        turns = [turn for order in (names, names[::-1]) for turn in measure_apart(order, threads, arguments.turns)]
        samples += [{"load": round(before, 2)} | asdict(one) for one in (*turns, profile_apart("whole", threads))]
    print(f"raw samples: {save('vocabulary', samples)}")
    print(report(samples))


if __name__ == "__main__":
    main()
