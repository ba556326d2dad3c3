"""What does speculation gain, what does it cost where it gains nothing, and how often do answers part?

    python benchmarks/speculation.py [--shapes smollm2-135m qwen2.5-0.5b] [--threads 1 2] [--rounds 2] [--again]

Two measurements, each a row that is kept as soon as it is there; a run goes on where the last one stopped.

- ``speed``: shapes of real models, random weights. What a model of random weights says repeats nothing, so the answer
  is given: each token is asked for as if the model had chosen it, by steps over several tokens and one by one in turn.
  ``edit``: a passage of WikiText-2 is the prompt, and the answer is that passage with its most frequent name replaced,
  as an editor or a program that changes code would give it. ``prose``: the answer is the next passage.
- ``answers``: small models with real weights, greedy, 40 prompts of 48 tokens, 96 tokens each: how many are the plain
  ones to the end, of steps as wide as pays, and how many proposals were right.

It has to run quietly: times are compared. About two minutes for each shape and number of threads, one for all answers.
"""

import argparse
import json
import os
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from common import RESULTS, SIZES, WORK, group, load, save, spread, table
from decode_speed import bundle_of

from edgepress.exporter import export
from edgepress.runtime import Speculation
from edgepress.runtime.model import Model
from edgepress.runtime.model import load as open_bundle

DATA = Path(os.environ.get("EDGEPRESS_DATA", "../shared/data"))
LENGTH = 320  # tokens of a passage, about
PROMPTS, PROMPT, ANSWER = 40, 48, 96
SMALL = {  # a model with real weights, its checkpoint, and the text that prompts are taken from
    "demo": ("demo", "text/tinyshakespeare/input.txt"),
    "stories260k": ("models/stories260k", "text/tinystories/tinystories_valid_head_256KiB.txt"),
}
FREELY = Speculation(exact=False)
Sample = dict[str, Any]


# ---- given answers ---------------------------------------------------------------------------------------------------


def passages() -> tuple[str, str]:
    """A passage of the text, and the one after it."""
    words = (DATA / "text/wikitext2/valid.txt").read_text(encoding="utf-8").split(" ")
    length = LENGTH * 3 // 4  # words, of four thirds of a token
    return " ".join(words[:length]), " ".join(words[length : 2 * length])


def edited(text: str) -> str:
    """The text with its most frequent capitalized word replaced."""
    name, _count = Counter(re.findall(r"\b[A-Z][a-z]{3,}\b", text)).most_common(1)[0]
    return re.sub(rf"\b{name}\b", "Quintilian", text)


def encoder() -> Any:
    """GPT-2's tokenizer: its tokens are in the vocabularies of all shapes, modulo their size."""
    from tokenizers import ByteLevelBPETokenizer

    folder = DATA / "tokenizers/gpt2"
    return ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


def tokens_of(kind: str, vocabulary: int) -> tuple[list[int], list[int]]:
    """A prompt and the answer that is given."""
    first, second = passages()
    answer = {"edit": edited(first), "prose": second}[kind]
    read = encoder()
    prompt, wanted = (np.array(read.encode(text).ids) % vocabulary for text in (first, answer))
    return prompt.tolist(), wanted.tolist()


def given(model: Model, how: Speculation | None, prompt: list[int], answer: list[int]) -> tuple[float, dict[str, int]]:
    """Seconds of an answer's steps after the prompt, and what came of the proposals."""
    text, tally = (model, None) if how is None else model._speculating(how)
    text.begin(prompt, reuse=False)
    start = perf_counter()
    for token in answer:
        text.decode(token)
    seconds = perf_counter() - start
    return seconds, {} if tally is None else {"steps": tally.steps, "proposed": tally.proposed, "right": tally.right}


def measure_speed(shape: str, threads: int, kind: str, rounds: int) -> Iterator[Sample]:
    """Plain and speculated in turn."""
    model = open_bundle(bundle_of(shape, "int4"), threads=threads)
    prompt, answer = tokens_of(kind, model.config.vocab_size)
    costs = model.step_costs
    given(model, None, prompt, answer[:16])
    for _ in range(rounds):
        plain, _none = given(model, None, prompt, answer)
        quick, tally = given(model, FREELY, prompt, answer)
        yield {
            "plain_s": plain,
            "speculated_s": quick,
            "load": load(),
            "tokens": len(answer),
            "prompt": len(prompt),
            **tally,
            "step_seconds": [[rows, seconds] for rows, seconds in costs.seconds.items()],
        }


# ---- answers of real weights -----------------------------------------------------------------------------------------


def measure_answers(name: str, recipe: str) -> Sample:
    """Greedy answers, plain and speculated."""
    checkpoint, text = SMALL[name]
    out = WORK / f"speculation-{name}-{recipe}"
    if not out.exists():
        export(name if checkpoint == name else DATA / checkpoint, out=out, target="x86-cpu", recipe=recipe)
    model = open_bundle(out, threads=1)
    tokens = model.tokenizer.encode((DATA / text).read_text(encoding="utf-8")[:200_000])
    starts = np.random.default_rng(0).integers(0, len(tokens) - PROMPT, PROMPTS)
    found: Sample = {"prompts": PROMPTS, "same": 0, "tokens": 0, "right": 0, "proposed": 0, "steps": 0}
    agreed: list[int] = []
    for start in starts:
        prompt = [int(token) for token in tokens[start : start + PROMPT]]
        plain = model.generate(prompt, max_tokens=ANSWER)
        plain.text()
        quick = model.generate(prompt, max_tokens=ANSWER, speculate=FREELY)
        quick.text()
        assert quick.tally is not None
        same = plain.tokens == quick.tokens
        both = zip(plain.tokens, quick.tokens, strict=False)
        agreed.append(len(plain.tokens) if same else next(at for at, (one, other) in enumerate(both) if one != other))
        found["same"] += same
        for key in ("right", "proposed", "steps"):
            found[key] += getattr(quick.tally, key)
        found["tokens"] += len(quick.tokens)
    return {**found, "agreed": agreed, "exact": model.step_costs.exact}


# ---- rows ------------------------------------------------------------------------------------------------------------


def kept() -> list[Sample]:
    """Samples of earlier runs."""
    path = RESULTS / "speculation.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]] if path.exists() else []


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """Both tables, from raw samples."""
    speed, answers = [], []
    for (shape, threads, kind), ones in group(
        [one for one in samples if one["what"] == "speed"], "shape", "threads", "answer"
    ).items():
        ratio = [one["plain_s"] / one["speculated_s"] for one in ones]
        first = ones[0]
        speed.append((
            *(shape, str(threads), kind, f"{first['tokens']:,}", f"{first['tokens'] / first['steps']:.1f}"),
            f"{first['right']:,} of {first['proposed']:,}",
            spread([1e3 * one["plain_s"] / one["tokens"] for one in ones], 1),
            spread([1e3 * one["speculated_s"] / one["tokens"] for one in ones], 1),
            spread(ratio),
            spread([one["load"] for one in ones], 1),
        ))  # fmt: skip
    for one in (one for one in samples if one["what"] == "answers"):
        answers.append((
            *(SIZES[one["model"]], one["recipe"], f"{one['same']} of {one['prompts']}"),
            f"{statistics.median(one['agreed']):.0f}",
            f"{one['tokens'] / one['steps']:.2f}",
            f"{one['right'] / max(1, one['proposed']):.0%}",
        ))  # fmt: skip
    header = ("shape", "threads", "answer", "tokens", "tokens a step", "proposals right", "plain ms/token")
    header += ("speculated ms/token", "speed ÷ plain", "load")
    weights = ("model", "recipe", "answers that are the plain ones", "median tokens until they part", "tokens a step")
    return table(header, speed) + "\n\n" + table((*weights, "proposals right"), answers)


def main() -> None:
    """Measure what is not there yet, keep it, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=["smollm2-135m", "qwen2.5-0.5b"])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--models", nargs="*", default=list(SMALL))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    arguments = parser.parse_args()
    samples = [] if arguments.again else kept()
    for shape in arguments.shapes:
        for threads in arguments.threads:
            for kind in ("edit", "prose"):
                key = {"what": "speed", "shape": shape, "threads": threads, "answer": kind}
                if any(key.items() <= one.items() for one in samples):
                    continue
                samples += [key | one for one in measure_speed(shape, threads, kind, arguments.rounds)]
                save("speculation", samples)
                print(key, samples[-1], file=sys.stderr, flush=True)
    for model in arguments.models:
        for recipe in ("fp32", "int8", "int4", "int4-128"):
            key = {"what": "answers", "model": model, "recipe": recipe}
            if not any(key.items() <= one.items() for one in samples):
                samples.append(key | measure_answers(model, recipe))
                save("speculation", samples)
                print(key, file=sys.stderr, flush=True)
    print(report(samples))


if __name__ == "__main__":
    main()
